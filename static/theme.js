// Sets the colour theme before anything is drawn. The admin keeps its choice under the same key, as JSON text.
(() => {
  "use strict";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      const value = JSON.parse(localStorage.getItem("adminTheme"));
      return ["light", "dark"].includes(value) ? value : "auto";
    } catch {
      return "auto";
    }
  };
  const apply = () => {
    const dark = stored() === "dark" || (stored() === "auto" && system.matches);
    document.documentElement.classList.toggle("dark", dark);
    document.documentElement.classList.toggle("light", !dark);
    return stored();
  };
  window.swarmdeskTheme = {
    apply,
    stored,
    next() {
      const order = ["auto", "light", "dark"];
      const theme = order[(order.indexOf(stored()) + 1) % order.length];
      localStorage.setItem("adminTheme", JSON.stringify(theme));
      apply();
      return theme;
    },
  };
  system.addEventListener("change", apply);
  apply();
})();
