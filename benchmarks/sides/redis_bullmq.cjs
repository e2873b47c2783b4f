// BullMQ on Redis, with its defaults: jobs and results are kept for good, a job is completed and the next one taken in one
// script, locks of 30 s. The same steps as those of a Python engine; see redis_engine.py.
//
//     node redis_bullmq.cjs URL COUNT --slots N --wait MS --step STEP
"use strict";

const { Queue, QueueEvents, Worker } = require("bullmq");
const { parseArgs } = require("node:util");
const { setTimeout: sleep } = require("node:timers/promises");

const NAME = "tasks";
const JOB = "no_op";
// What one request carries.
const BATCH = 1000;
// As in redis_work.py.
const PAUSE_MS = 2;
const LATENCY_MS = 8000;

// Starts now. What it returns tells the seconds since then, and the processor seconds of this process.
function stopwatch() {
  const started = performance.now();
  const before = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(before);
    return { seconds: (performance.now() - started) / 1000, cpu: (user + system) / 1e6 };
  };
}

async function submit(connection, count) {
  const queue = new Queue(NAME, { connection });
  await queue.add(JOB, { number: 0 }); // connects
  const spent = stopwatch();
  for (let number = 1; number < count; number++) await queue.add(JOB, { number });
  return spent();
}

async function submitMany(connection, count) {
  const queue = new Queue(NAME, { connection });
  await queue.waitUntilReady();
  const spent = stopwatch();
  for (let first = 0; first < count; first += BATCH) {
    const size = Math.min(BATCH, count - first);
    await queue.addBulk(Array.from({ length: size }, (_, place) => ({ name: JOB, data: { number: first + place } })));
  }
  return spent();
}

async function drain(connection, count, slots, milliseconds) {
  const ran = new Set();
  let runs = 0;
  let completed = 0;
  const spent = stopwatch();
  const worker = new Worker(
    NAME,
    async (job) => {
      if (milliseconds) await sleep(milliseconds);
      runs++;
      ran.add(job.data.number);
      return job.data.number;
    },
    { connection, concurrency: slots },
  );
  const spentOnAll = await new Promise((resolve, reject) => {
    worker.on("completed", () => ++completed === count && resolve(spent()));
    worker.on("failed", (_job, error) => reject(error));
    worker.on("error", reject);
  });
  const known = await new Queue(NAME, { connection }).getCompletedCount();
  if (ran.size !== count || runs !== count || known !== count) {
    throw new Error(`${count} tasks ran ${runs} times, ${ran.size} of them; ${known} are completed`);
  }
  return spentOnAll;
}

async function serve(connection, slots) {
  new Worker(NAME, async (job) => job.data.number, { connection, concurrency: slots });
  await new Promise(() => {});
}

async function latency(connection, count) {
  const queue = new Queue(NAME, { connection });
  const events = new QueueEvents(NAME, { connection });
  await events.waitUntilReady();
  const each = [];
  const over = performance.now() + LATENCY_MS;
  for (let number = 0; number <= count; number++) {
    const started = performance.now();
    const job = await queue.add(JOB, { number });
    await job.waitUntilFinished(events, 10000);
    each.push((performance.now() - started) / 1000);
    if (performance.now() > over) break;
    await sleep(PAUSE_MS);
  }
  return { each: each.slice(1) };
}

async function main() {
  const options = { slots: { type: "string" }, wait: { type: "string" }, step: { type: "string" } };
  const { positionals, values } = parseArgs({ options, allowPositionals: true });
  const url = new URL(positionals[0]);
  const count = Number(positionals[1]);
  const slots = Number(values.slots);
  // A worker's connection waits for the server for as long as it takes; BullMQ wants it said.
  const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };
  const steps = {
    submit: () => submit(connection, count),
    submit_many: () => submitMany(connection, count),
    drain: () => drain(connection, count, slots, Number(values.wait)),
    serve: () => serve(connection, slots),
    latency: () => latency(connection, count),
  };
  const answer = await steps[values.step]();
  process.stdout.write(JSON.stringify(answer) + "\n", () => process.exit(0));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
