// A worker over HTTP without dependencies, for Node 18 or later: TASKFLOW_URL=… TASKFLOW_TOKEN=… node worker.mjs
const URL_ = process.env.TASKFLOW_URL ?? "http://127.0.0.1:8086";
const PRIORITIES = (process.env.PRIORITIES ?? "low").split(",");
const CONCURRENCY = 10;

const handlers = {
  async shout({ text }) {
    if (typeof text !== "string") throw new TypeError("text must be a string");
    return text.toUpperCase() + "!";
  },
};

async function ask(path, body, method = "POST") {
  const headers = { "Content-Type": "application/json" };
  if (process.env.TASKFLOW_TOKEN) headers.Authorization = `Bearer ${process.env.TASKFLOW_TOKEN}`;
  const answer = await fetch(URL_ + path, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
  return answer.json();
}

async function surely(work) { // what cannot be reached now is tried again; a worker that was taken for gone ends
  for (let pause = 100; ; pause = Math.min(2 * pause, 5000)) {
    try { return await work(); } catch (error) {
      if (error.status && error.status !== 503 && error.status !== 429) throw error;
      await new Promise((done) => setTimeout(done, pause));
    }
  }
}

const worker = await surely(() => ask("/workers", { name: `node-${process.pid}`, priorities: PRIORITIES, concurrency: CONCURRENCY }));
const me = `/workers/${worker.id}`;
const running = new Set();
let stopping = false, freed = () => {};
process.on("SIGTERM", () => { stopping = true; });
console.log(`worker ${worker.id} started`);

setInterval(async () => { // says that we live; tells of tasks that were cancelled
  const beat = await surely(() => ask(`${me}/heartbeat`, { running: [...running] })).catch(gone);
  stopping ||= beat.draining;
}, worker.heartbeat_seconds * 1000);

async function run({ id, attempt, type, payload }) {
  let ending = { outcome: "succeeded" };
  try { ending.result = (await handlers[type](payload)) ?? null; } catch (error) { ending = { outcome: "retry", error: `${error.name}: ${error.message}` }; }
  await surely(() => ask(`${me}/results`, { results: [{ id, attempt, ...ending }] })).catch(gone);
  running.delete(id);
  freed();
}

function gone(error) { console.error(error.message); process.exit(1); }

while (!stopping) {
  const { tasks, draining } = await surely(() => ask(`${me}/claims`, { limit: CONCURRENCY - running.size, wait: 2 })).catch(gone);
  stopping ||= draining;
  for (const task of tasks) { running.add(task.id); run(task); }
  if (running.size === CONCURRENCY) await new Promise((done) => { freed = done; });
}
while (running.size) await new Promise((done) => { freed = done; });
await ask(me, undefined, "DELETE");
process.exit(0);
