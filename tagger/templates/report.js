"use strict";
const form = document.getElementById("filters");

function fits(card, label, kind, status) {
  const { given, said, kinds } = card.dataset;
  const named = [given, said].some((name) => name.toLowerCase().includes(label));
  return named && (!kind || kinds.split("|").includes(kind)) && (!status || card.dataset.status === status);
}

function filter() {
  const { task, kind, status } = Object.fromEntries(new FormData(form));
  const label = form.elements.label.value.trim().toLowerCase();
  let count = 0;
  for (const section of document.querySelectorAll("section.task")) {
    section.hidden = Boolean(task) && section.dataset.task !== task;
    let shown = 0;
    for (const card of section.querySelectorAll(".card")) {
      card.hidden = !fits(card, label, kind, status);
      shown += !card.hidden;
    }
    section.querySelector(".nothing").hidden = shown > 0;
    for (const row of section.querySelectorAll(".labels tbody tr")) {
      row.hidden = !row.dataset.label.toLowerCase().includes(label);
    }
    if (!section.hidden) count += shown;
  }
  form.elements.count.value = `${count} products shown`;
}

function choose(button) {
  form.elements.task.value = button.dataset.choose;
  form.elements.label.value = button.dataset.label ?? "";
  filter();
  const section = [...document.querySelectorAll("section.task")].find((s) => !s.hidden);
  const target = button.dataset.label === undefined ? section : section.querySelector(".cards");
  const top = target.getBoundingClientRect().top + scrollY - form.offsetHeight - 12;
  scrollTo({ top, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function showMap(button) {
  button.closest(".card").dataset.map = button.dataset.map;
  for (const other of button.parentElement.children) other.ariaPressed = String(other === button);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.choose !== undefined) choose(button);
  if (button?.dataset.map !== undefined) showMap(button);
});
form.addEventListener("input", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.addEventListener("submit", (event) => event.preventDefault());
filter();
