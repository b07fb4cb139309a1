// Classify texts in Node.js with a bundle's model.sparse.onnx:
//
//     ONNXRUNTIME_NODE_INSTALL=skip npm install      (skip: no CUDA download, it runs on the CPU)
//     node classify.mjs BUNDLE "a warm and funny film" "two hours that I want back"
//
// onnxruntime-node cannot register a custom-op library: its native binding makes the session's options itself, reads a
// fixed list of keys and never calls RegisterCustomOpsLibrary_V2 (microsoft/onnxruntime#18587). So this calls the C API
// of the libonnxruntime that the package ships. That API is stable, and it is all that the binding itself uses.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { Tokenizer } from "@huggingface/tokenizers";
import koffi from "koffi";

const API_VERSION = 17; // the oldest that the operators accept; every newer runtime serves it
const WARNINGS = 2;
const INT64 = 7;

const pointer = "void *";
const result = koffi.out(koffi.pointer(pointer));

// OrtApi is append-only, so a function's index never changes. Each of these returns a status, null when all is well.
const FUNCTIONS = {
  CreateEnv: [3, ["int", "str", result]],
  CreateSession: [7, [pointer, "str", pointer, result]],
  Run: [9, [pointer, pointer, "const char **", "void **", "size_t", "const char **", "size_t", result]],
  CreateSessionOptions: [10, [result]],
  SetIntraOpNumThreads: [24, [pointer, "int"]],
  SessionGetInputCount: [30, [pointer, koffi.out(koffi.pointer("size_t"))]],
  SessionGetInputName: [36, [pointer, "size_t", pointer, result]],
  CreateTensorAsOrtValue: [48, [pointer, "int64_t *", "size_t", "int", result]],
  GetTensorMutableData: [51, [pointer, result]],
  AllocatorFree: [76, [pointer, pointer]],
  GetAllocatorWithDefaultOptions: [78, [result]],
  RegisterCustomOpsLibrary_V2: [228, [pointer, "str"]],
};
const RELEASES = {
  ReleaseEnv: 92,
  ReleaseStatus: 93,
  ReleaseSession: 95,
  ReleaseValue: 96,
  ReleaseSessionOptions: 100,
};

class OnnxRuntime {
  constructor(path) {
    // Kept: koffi unloads a library that nothing refers to, and functions read from a table do not count.
    this.library = koffi.load(path);
    const base = this.library.func("OrtGetApiBase", pointer, [])();
    const getApi = koffi.decode(koffi.decode(base, pointer), koffi.proto(pointer, ["uint32_t"]));
    const table = getApi(API_VERSION);
    if (!table) throw new Error(`${path} is older than ONNX Runtime 1.${API_VERSION}`);
    const at = (index, returned, parameters) =>
      koffi.decode(koffi.decode(table, index * koffi.sizeof(pointer), pointer), koffi.proto(returned, parameters));

    const message = at(2, "str", [pointer]);
    for (const [name, index] of Object.entries(RELEASES)) this[name] = at(index, "void", [pointer]);

    const check = (status) => {
      if (!status) return;
      const error = new Error(message(status));
      this.ReleaseStatus(status);
      throw error;
    };
    for (const [name, [index, parameters]] of Object.entries(FUNCTIONS)) {
      const native = at(index, pointer, parameters);
      const later = promisify(native.async);
      this[name] = (...values) => check(native(...values));
      this[name].async = async (...values) => check(await later(...values));
    }
  }

  // The value that a function writes through its last parameter.
  get(name, ...values) {
    const out = [null];
    this[name](...values, out);
    return out[0];
  }
}

class Classifier {
  constructor(runtime, model, library, threads) {
    this.runtime = runtime;
    this.env = runtime.get("CreateEnv", WARNINGS, "sparserve");
    this.allocator = runtime.get("GetAllocatorWithDefaultOptions");
    const options = runtime.get("CreateSessionOptions");
    try {
      runtime.SetIntraOpNumThreads(options, threads);
      runtime.RegisterCustomOpsLibrary_V2(options, library);
      this.session = runtime.get("CreateSession", this.env, model, options);
    } finally {
      runtime.ReleaseSessionOptions(options);
    }
    const count = Number(runtime.get("SessionGetInputCount", this.session));
    this.inputs = Array.from({ length: count }, (_, index) => this.#inputName(index));
  }

  #inputName(index) {
    const name = this.runtime.get("SessionGetInputName", this.session, index, this.allocator);
    const text = koffi.decode.string(name);
    this.runtime.AllocatorFree(this.allocator, name);
    return text;
  }

  // ONNX Runtime owns the memory: what a JavaScript array has may move or go while a call still reads it.
  #tensor(values, shape) {
    const tensor = this.runtime.get("CreateTensorAsOrtValue", this.allocator, shape, shape.length, INT64);
    this.#view(tensor, BigInt64Array, values.length).set(values);
    return tensor;
  }

  #view(tensor, Type, length) {
    const data = this.runtime.get("GetTensorMutableData", tensor);
    return new Type(koffi.view(data, length * Type.BYTES_PER_ELEMENT));
  }

  // Logits, one row a text, of rows padded to one length. Runs on another thread: Node's event loop stays free.
  async logits(columns, rows, length, labels) {
    const tensors = [];
    const output = [null];
    try {
      for (const name of this.inputs) tensors.push(this.#tensor(columns[name], [rows, length]));
      const { session, inputs } = this;
      await this.runtime.Run.async(session, null, inputs, tensors, inputs.length, ["logits"], 1, output);
      const flat = this.#view(output[0], Float32Array, rows * labels).slice();
      return Array.from({ length: rows }, (_, row) => flat.subarray(row * labels, (row + 1) * labels));
    } finally {
      for (const value of [...tensors, ...output]) if (value) this.runtime.ReleaseValue(value);
    }
  }

  close() {
    this.runtime.ReleaseSession(this.session);
    this.runtime.ReleaseEnv(this.env);
  }
}

function encode(tokenizer, texts, { max_length: limit, pad_token_id: pad }) {
  const rows = texts.map((text) => {
    const { ids } = tokenizer.encode(text);
    return ids.length > limit ? [...ids.slice(0, limit - 1), ids.at(-1)] : ids; // the end token stays
  });
  const length = Math.max(...rows.map((ids) => ids.length));
  const padded = (value, filler) =>
    rows.flatMap((ids) => Array.from({ length }, (_, at) => BigInt(at < ids.length ? value(ids[at]) : filler)));
  const columns = {
    input_ids: padded((id) => id, pad),
    attention_mask: padded(() => 1, 0),
    token_type_ids: padded(() => 0, 0),
  };
  return { columns, length };
}

function scores(logits, problem) {
  const values = [...logits];
  if (problem === "regression") return values;
  const exclusive = problem === "single_label_classification" && values.length > 1;
  if (!exclusive) return values.map((value) => 1 / (1 + Math.exp(-value)));
  const highest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

function onnxRuntimePath() {
  const folder = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
  const name = process.platform === "darwin" ? "libonnxruntime.1.dylib" : "libonnxruntime.so.1";
  return join(folder, "bin", "napi-v6", process.platform, process.arch, name);
}

const [bundle, ...texts] = process.argv.slice(2);
const built = fileURLToPath(new URL("../../kernels/libsparserve.so", import.meta.url));
const library = process.env.SPARSERVE_LIBRARY ?? built;
let problem;
if (!bundle || texts.length === 0) problem = "usage: node classify.mjs BUNDLE TEXT...";
else if (!existsSync(library)) problem = `no ${library}: build it, or set SPARSERVE_LIBRARY`;
if (problem) {
  console.error(problem);
  process.exit(2);
}

const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
const tokenizer = new Tokenizer(JSON.parse(readFileSync(join(bundle, "tokenizer.json"), "utf8")), {});
const classifier = new Classifier(new OnnxRuntime(onnxRuntimePath()), join(bundle, "model.sparse.onnx"), library, 1);
const { columns, length } = encode(tokenizer, texts, manifest);
const logits = await classifier.logits(columns, texts.length, length, manifest.labels.length);
for (const [row, text] of texts.entries()) {
  const rounded = scores(logits[row], manifest.problem_type).map((score) => Number(score.toFixed(6)));
  const named = Object.fromEntries(rounded.map((score, at) => [manifest.labels[at], score]));
  console.log(JSON.stringify({ text, scores: named }));
}
classifier.close();
