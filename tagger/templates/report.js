"use strict";
const form = document.getElementById("filters");

// A pair of labels as one text that no other pair has, even where labels hold arrows.
function pair({ given, said }) {
  const escaped = (name) => name.replace(/[\\→]/g, "\\$&").replaceAll("\n", "\\n");
  return `${escaped(given)} → ${escaped(said)}`;
}

// What the label field asks for: the pair of a card to the letter, or else a part of a label.
function wanted(text) {
  const exact = [...document.querySelectorAll(".card")].find((card) => pair(card.dataset) === text);
  if (exact) {
    const { given, said } = exact.dataset;
    return {
      names: (card) => card.given === given && card.said === said,
      label: (name) => name === given || name === said,
    };
  }
  const part = text.trim().toLowerCase();
  const label = (name) => name.toLowerCase().includes(part);
  return { names: (card) => label(card.given) || label(card.said), label };
}

function fits(card, names, kind, status) {
  return names(card) && (!kind || card.kinds.split("|").includes(kind)) && (!status || card.status === status);
}

function filter() {
  const { task, kind, status } = Object.fromEntries(new FormData(form));
  const { names, label } = wanted(form.elements.label.value);
  let count = 0;
  for (const section of document.querySelectorAll("section.task")) {
    section.hidden = Boolean(task) && section.dataset.task !== task;
    let shown = 0;
    for (const card of section.querySelectorAll(".card")) {
      card.hidden = !fits(card.dataset, names, kind, status);
      shown += !card.hidden;
    }
    const nothing = section.querySelector(".nothing"); // only where there are cards
    if (nothing) nothing.hidden = shown > 0;
    for (const row of section.querySelectorAll(".labels tbody tr")) {
      row.hidden = !label(row.dataset.label);
    }
    if (!section.hidden) count += shown;
  }
  form.elements.count.value = `${count} ${count === 1 ? "answer" : "answers"} shown`;
}

function choose(button) {
  const paired = button.dataset.given !== undefined;
  form.elements.task.value = button.dataset.choose;
  form.elements.label.value = paired ? pair(button.dataset) : "";
  if (paired) form.elements.kind.value = form.elements.status.value = "";
  filter();
  const section = [...document.querySelectorAll("section.task")].find((s) => !s.hidden);
  const target = section.querySelector(paired ? ".cards" : "h2");
  const top = target.getBoundingClientRect().top + scrollY - form.offsetHeight - 12;
  target.focus({ preventScroll: true });
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
