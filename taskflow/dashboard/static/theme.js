// Light or dark by hand; without a choice, as the system says.
const KEY = "taskflow-theme";

export function offerTheme() {
  const root = document.documentElement;
  const kept = localStorage.getItem(KEY);
  if (kept) root.dataset.theme = kept;
  const button = document.createElement("button");
  button.className = "plain";
  button.type = "button";
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => {
    button.textContent = isDark() ? "☀" : "☾";
    button.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem(KEY, root.dataset.theme);
    label();
  });
  label();
  document.querySelector(".who").append(button);
}
