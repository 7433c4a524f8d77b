// A link with data-dialog leads to a page that asks; with JavaScript, what it asks is shown in a dialog over this page.
export function showInDialogs(onNew) {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(link.href, onNew).catch(() => location.assign(link.href));
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-submit]")) event.target.form.requestSubmit();
  });
}

async function open(href, onNew) {
  const answer = await fetch(href, { headers: { Accept: "text/html" } });
  const asked = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("ask");
  if (!answer.ok || !asked) return location.assign(href);
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", asked.querySelector("h1").textContent);
  dialog.append(...asked.childNodes);
  dialog.addEventListener("click", (event) => {
    if (event.target !== dialog && !event.target.closest("[data-close]")) return;
    event.preventDefault();
    dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  onNew(dialog);
  document.body.append(dialog);
  dialog.showModal();
}
