// Regions with an id and data-live are replaced by what the server renders now: half a second after a word of a change,
// which comes once a second at most, and every five seconds anyway. A region that somebody works in (focus, an open
// dialog) is left alone.
const AFTER = 500, PAUSE = 500, ANYWAY = 5000;

export function followChanges(onNew) {
  if (!document.querySelector("[data-live]")) return;
  const sign = document.getElementById("live");
  let timer = 0, last = 0, asking = false;

  const plan = (delay) => {
    if (timer || document.hidden) return;
    timer = setTimeout(refresh, Math.max(delay, last + PAUSE - Date.now()));
  };
  const refresh = async () => {
    timer = 0;
    if (asking) return plan(PAUSE);
    asking = true;
    last = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname.endsWith("/login")) return location.reload();
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"), onNew);
      show(answer.ok);
    } catch {
      show(false);
    } finally {
      asking = false;
    }
  };
  const show = (isLive) => {
    sign.hidden = false;
    sign.classList.toggle("off", !isLive);
    sign.textContent = isLive ? "live" : "not live";
  };

  const source = new EventSource("/dashboard/live");
  source.addEventListener("open", () => show(true));
  source.addEventListener("error", () => show(false));
  source.addEventListener("change", () => plan(AFTER));
  // All browsers ask at the same time, and get the same answer of the database.
  const anyway = () => setTimeout(() => (plan(0), anyway()), ANYWAY - (Date.now() % ANYWAY));
  anyway();
  document.addEventListener("visibilitychange", () => plan(0));
}

function replace(fresh, onNew) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const region = fresh.getElementById(old.id);
    if (!region || old.isEqualNode(region) || old.contains(document.activeElement) || old.querySelector("dialog[open]"))
      continue;
    for (const opened of old.querySelectorAll("details[open][id]")) {
      const again = region.querySelector(`details#${CSS.escape(opened.id)}`);
      if (again) again.open = true;
    }
    onNew(region);
    old.replaceWith(region);
  }
}
