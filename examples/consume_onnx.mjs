// Feed the golden vectors of an exported model to ONNX Runtime in Node:
//   npm install onnxruntime-node && node consume_onnx.mjs EXPORTED
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";

const folder = process.argv[2];
const manifest = JSON.parse(readFileSync(join(folder, "export.json"), "utf8"));
const { tasks } = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));

// A safetensors file: the length of the header (8 bytes, little endian), the header, the tensors.
const file = readFileSync(join(folder, "golden.safetensors"));
const start = 8 + Number(file.readBigUInt64LE(0));
const header = JSON.parse(file.toString("utf8", 8, start));
const arrays = { uint8: Uint8Array, bool: Uint8Array, int64: BigInt64Array, float32: Float32Array };
function golden({ name, dtype }) {
  const [from, to] = header[name].data_offsets;
  const bytes = new Uint8Array(file.subarray(start + from, start + to)).buffer; // aligned copy
  return new Tensor(dtype, new arrays[dtype](bytes), header[name].shape);
}

const session = await InferenceSession.create(join(folder, manifest.graph));
const inputs = Object.fromEntries(manifest.inputs.map((spec) => [spec.name, golden(spec)]));
const outputs = await session.run(inputs);

for (const { name, labels } of tasks) {
  const { data, dims } = outputs[`${name}_probabilities`];
  const best = Array.from({ length: dims[0] }, (_, row) => {
    const probabilities = data.subarray(row * dims[1], (row + 1) * dims[1]);
    return labels[probabilities.indexOf(Math.max(...probabilities))];
  });
  console.log(`${name}: ${best.join(", ")}`);
}
let worst = 0;
for (const spec of manifest.outputs) {
  const expected = golden(spec).data;
  outputs[spec.name].data.forEach((value, i) => {
    if (Number.isNaN(value) && Number.isNaN(expected[i])) return; // a weight that it cannot tell
    worst = Math.max(worst, Math.abs(value - expected[i]));
  });
}
console.log(`outputs: largest difference ${worst.toExponential(1)}`);
process.exit(worst <= manifest.limits.difference ? 0 : 1);
