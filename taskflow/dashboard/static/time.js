// Times are sent in UTC, and shown in the browser's zone; the tooltip has both exactly.
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    const local = exact.format(at);
    element.title = `${local} · ${element.dateTime.slice(0, 19).replace("T", " ")} UTC`;
    element.textContent = element.classList.contains("ago") ? age((Date.now() - at) / 1000) : local;
  }
}

function age(seconds) {
  const span = Math.abs(seconds);
  const said =
    span < 60 ? `${Math.floor(span)} s`
    : span < 3600 ? `${Math.floor(span / 60)} min`
    : span < 86400 ? `${Math.floor(span / 3600)} h ${Math.floor((span % 3600) / 60)} min`
    : `${Math.floor(span / 86400)} d ${Math.floor((span % 86400) / 3600)} h`;
  return seconds < 0 ? `in ${said}` : `${said} ago`;
}
