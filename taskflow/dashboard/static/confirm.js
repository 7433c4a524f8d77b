// A form with data-confirm asks in a dialog first. Without JavaScript it is sent at once.
export function askFirst() {
  document.addEventListener("submit", (event) => {
    const form = event.target;
    const question = event.submitter?.dataset.confirm ?? form.dataset.confirm;
    if (!question || form.dataset.confirmed) return;
    event.preventDefault();
    ask(question, event.submitter?.textContent.trim() || "Yes", event.submitter?.classList.contains("danger")).then((yes) => {
      if (!yes) return;
      form.dataset.confirmed = "yes";
      form.requestSubmit(event.submitter);
    });
  });
}

function ask(question, verb, isDangerous) {
  const dialog = document.createElement("dialog");
  const text = document.createElement("p");
  text.textContent = question;
  dialog.setAttribute("aria-label", question);
  const form = document.createElement("form");
  form.method = "dialog";
  form.className = "row";
  for (const [value, label, kind] of [["yes", verb, isDangerous ? "danger" : "primary"], ["no", "Not now", ""]]) {
    const button = document.createElement("button");
    button.value = value;
    button.textContent = label;
    button.className = kind;
    form.append(button);
  }
  dialog.append(text, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
