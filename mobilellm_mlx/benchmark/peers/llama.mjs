// llama.cpp through node-llama-cpp, as serve.py does it: a line of JSON in, a line of JSON out.
//
//     node llama.mjs '{"modules": ..., "gguf": ..., "threads": 1, "on_gpu": false, "context": 1024}'

import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {join} from "node:path";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const STEPS = 20;
const options = JSON.parse(process.argv[2]);
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const seconds = () => performance.now() / 1000;
console.log = console.info = console.error;  // stdout is for answers

async function start() {
  const require = createRequire(join(options.modules, "_.js"));
  const library = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
  const {version} = JSON.parse(
    readFileSync(join(options.modules, "node-llama-cpp", "package.json"), "utf8"));
  const threads = options.threads;
  const llama = await library.getLlama({
    gpu: options.on_gpu ? "auto" : false, build: "never", skipDownload: true, logLevel: "error",
    ...(threads ? {maxThreads: threads} : {}),
  });
  const started = seconds();
  const model = await llama.loadModel({modelPath: options.gguf});
  const loadS = seconds() - started;
  const context = await model.createContext({
    contextSize: options.context, batchSize: 512,
    ...(threads ? {threads: {ideal: threads, min: threads}} : {}),
  });
  const sequence = context.getSequence();
  const step = async () => {
    const begun = seconds();
    await next(sequence.evaluate([1], {temperature: 0, yieldEogToken: true}));
    return seconds() - begun;
  };
  const initS = await step();
  const executeS = [];
  for (let i = 0; i < STEPS; i++) executeS.push(await step());
  say({
    engine: "llama.cpp",
    version: `${llama.llamaCppRelease?.release ?? "unknown"}, node-llama-cpp ${version}`,
    form: model.typeDescription ?? "GGUF", dtype: null, blas: llama.gpu ? `none: ${llama.gpu} computes` : "its own",
    threads: context.currentThreads || threads, load_s: loadS, init_s: initS, execute_s: executeS,
  });
  return sequence;
}

async function next(iterator) {
  const {value} = await iterator.next();
  await iterator.return?.();
  return value;
}

async function run(sequence, {depth, prompt, batch, generate}) {
  if (batch !== 1) throw new Error("it is asked for one sequence at a time");
  await sequence.clearHistory();
  if (depth.length) await sequence.evaluateWithoutGeneratingNewTokens(depth);
  const started = seconds();
  const stamps = [];
  for await (const _ of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
    stamps.push(seconds());
    if (stamps.length > generate) break;
  }
  return {ttft_s: stamps[0] - started, token_s: stamps.slice(1).map((at, i) => at - stamps[i])};
}

try {
  const sequence = await start();
  for await (const line of createInterface({input: process.stdin})) {
    const asked = JSON.parse(line);
    if (asked.do === "run") say(await run(sequence, asked));
    else if (asked.do === "count") say({});
    else say({peak_memory_bytes: process.resourceUsage().maxRSS * 1024, device_peak_bytes: 0});
  }
  process.exit(0);
} catch (error) {
  say({error: String(error?.message ?? error).replaceAll(/\s+/g, " ")});
  process.exit(1);
}
