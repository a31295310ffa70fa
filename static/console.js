// Keeps a page current. The socket is a hint, the database is the truth: an event adds a line to the list of events and
// asks the server for the parts of the page that it may have changed; nothing is computed here.
(() => {
  "use strict";

  const REFRESH_MS = 500; // at most two loads a second
  const QUIET_MS = 25000; // nothing shown is older than this and one load
  const LONGEST_WAIT_MS = 10000; // between attempts to connect
  const LOG_IN_FIRST = 4401;
  const REMEMBERED = 5000; // event ids, to show none twice

  const body = document.body;
  const parts = () => [...document.querySelectorAll("[data-part]")];

  // -- parts that load anew ------------------------------------------------------------------------------------------

  const due = new Set();
  let timer = null;
  let loading = false;
  let loadedAt = performance.now();

  function refresh(names) {
    names.forEach((name) => due.add(name));
    if (due.size && timer === null) timer = setTimeout(load, Math.max(0, loadedAt + REFRESH_MS - performance.now()));
  }

  function refreshAll() {
    refresh(parts().map((part) => part.dataset.part));
  }

  function refreshFor(kind) {
    const noun = kind.split(".")[0];
    refresh(parts().filter((part) => part.dataset.nouns.split(" ").includes(noun)).map((part) => part.dataset.part));
  }

  async function load() {
    timer = null;
    if (loading || document.hidden) {
      if (!document.hidden) timer = setTimeout(load, REFRESH_MS);
      return;
    }
    const names = [...due];
    due.clear();
    if (!names.length) return;
    loading = true;
    loadedAt = performance.now();
    const url = new URL(location.href);
    url.searchParams.set("part", names.join(","));
    url.hash = "";
    const kept = remember();
    try {
      await htmx.ajax("GET", url.pathname + url.search, { source: body, target: body, swap: "none" });
    } catch {
      // The server is away: when the socket is back, all parts are asked for.
    } finally {
      loading = false;
      restore(kept);
      tellTime();
      if (due.size) refresh([]);
    }
  }

  // Focus, what was unfolded, and how far things were scrolled outlive the exchange of the part they are in.
  function remember() {
    const focused = document.activeElement;
    const part = focused?.closest?.("[data-part]");
    const scrolled = [...document.querySelectorAll("[data-part] [tabindex]")].filter((e) => e.scrollTop || e.scrollLeft);
    return {
      selector: part ? `#${part.id} ${pathTo(focused)}` : null,
      focused,
      unfolded: [...document.querySelectorAll("[data-part] details[open][id]")].map((e) => e.id),
      scrolled: scrolled.map((e) => [`#${e.closest("[data-part]").id} .${e.classList[0]}`, e.scrollTop, e.scrollLeft]),
    };
  }

  function pathTo(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const href = element.getAttribute("href");
    if (href) return `[href="${CSS.escape(href)}"]`;
    const form = element.closest("form");
    if (form) return `form[action="${CSS.escape(form.getAttribute("action") || "")}"] button`;
    return element.dataset.dialog ? `[data-dialog="${element.dataset.dialog}"]` : `.${element.classList[0] || "none"}`;
  }

  function restore(kept) {
    for (const id of kept.unfolded) document.getElementById(id)?.setAttribute("open", "");
    for (const [selector, top, left] of kept.scrolled) {
      const element = document.querySelector(selector);
      if (element) [element.scrollTop, element.scrollLeft] = [top, left];
    }
    if (kept.selector && !document.contains(kept.focused)) document.querySelector(kept.selector)?.focus({ preventScroll: true });
  }

  // -- the socket ----------------------------------------------------------------------------------------------------

  let after = Number(body.dataset.after || 0);
  const seen = new Set();
  let socket = null;
  let attempts = 0;
  let heardAt = 0;
  let retry = null;

  function sign(state, text) {
    const live = document.getElementById("live");
    if (!live || live.dataset.state === state) return;
    live.dataset.state = state;
    live.querySelector("[data-live-text]").textContent = text;
  }

  function connect() {
    clearTimeout(retry);
    retry = null;
    const url = new URL("/ws/console/", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("after", after);
    if (body.dataset.swarm) url.searchParams.set("swarm", body.dataset.swarm);
    const mine = (socket = new WebSocket(url));
    heardAt = performance.now();
    mine.addEventListener("open", () => {
      heardAt = performance.now();
      sign("live", "live");
      // What is not in the event log (the pool's use, the age of a heartbeat) may have changed meanwhile too.
      if (attempts) refreshAll();
      attempts = 0;
    });
    mine.addEventListener("message", (message) => {
      heardAt = performance.now();
      hear(JSON.parse(message.data));
    });
    mine.addEventListener("close", (closed) => {
      if (mine !== socket) return;
      socket = null;
      if (closed.code === LOG_IN_FIRST) {
        location.reload(); // the server sends the login page
        return;
      }
      sign("reconnecting", "reconnecting");
      attempts += 1;
      const wait = Math.min(LONGEST_WAIT_MS, 250 * 2 ** Math.min(attempts, 6));
      retry = setTimeout(connect, wait / 2 + (Math.random() * wait) / 2);
    });
  }

  function hear(message) {
    if (message.type === "event") {
      if (seen.has(message.id)) return;
      seen.add(message.id);
      if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
      after = Math.max(after, message.id);
      list(message);
      refreshFor(message.kind);
    } else if (message.type === "reset") {
      after = message.after;
      refreshAll();
    }
  }

  function list(event) {
    const events = document.querySelector("[data-events]");
    if (!events || events.querySelector(`[data-event="${event.id}"]`)) return;
    events.querySelector("[data-none]")?.remove();
    const item = document.createElement("li");
    item.className = "sd-event sd-event-new";
    item.dataset.event = event.id;
    const icon = document.createElement("span");
    icon.className = `material-symbols-outlined sd-icon sd-text-${event.tone}`;
    icon.setAttribute("aria-hidden", "true");
    icon.textContent = event.icon;
    const text = document.createElement("span");
    text.className = "sd-event-text";
    text.textContent = event.text;
    const time = document.createElement("time");
    time.dateTime = event.at;
    time.title = `${event.at.slice(0, 19).replace("T", " ")} UTC`;
    time.dataset.when = "";
    item.append(icon, text, time);
    events.prepend(item);
    tellTime(item);
    const limit = Number(events.dataset.limit || 60);
    while (events.children.length > limit) events.lastElementChild.remove();
  }

  // -- times -----------------------------------------------------------------------------------------------------------

  function tellTime(root) {
    const now = Date.now();
    for (const time of (root instanceof Element ? root : document).querySelectorAll("time[data-when]")) {
      const ago = (now - Date.parse(time.dateTime)) / 1000;
      const size = Math.abs(ago);
      let text = "now";
      if (size >= 1) {
        const [unit, length] = size < 60 ? ["s", 1] : size < 3600 ? ["min", 60] : size < 86400 ? ["h", 3600] : ["d", 86400];
        text = `${Math.floor(size / length)} ${unit}`;
        text = ago > 0 ? `${text} ago` : `in ${text}`;
      }
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // -- small comforts ------------------------------------------------------------------------------------------------

  function showTheme() {
    const names = { auto: "follows the system", light: "light", dark: "dark" };
    const icons = { auto: "contrast", light: "light_mode", dark: "dark_mode" };
    const theme = window.swarmdeskTheme.stored();
    for (const button of document.querySelectorAll("[data-theme-switch]")) {
      button.setAttribute("aria-label", `Colour theme: ${names[theme]}`);
      button.title = `Colour theme: ${names[theme]}`;
      button.querySelector(".sd-icon").textContent = icons[theme];
    }
  }

  // One dialog may serve many buttons: each says what it is about, and where its form goes.
  function openDialog(dialog, { action, of, warn }) {
    if (!dialog) return;
    if (action) {
      dialog.querySelector("form").action = action;
      for (const place of dialog.querySelectorAll("[data-subject]")) place.textContent = of;
      const note = dialog.querySelector("[data-note]");
      note.textContent = warn;
      note.hidden = !warn;
    }
    dialog.showModal();
  }

  document.addEventListener("click", (click) => {
    const target = click.target.closest("button, a");
    if (!target) return;
    if ("themeSwitch" in target.dataset) {
      window.swarmdeskTheme.next();
      showTheme();
    } else if ("menu" in target.dataset) {
      const open = target.getAttribute("aria-expanded") !== "true";
      target.setAttribute("aria-expanded", String(open));
      document.getElementById("menu").classList.toggle("sd-open", open);
    } else if (target.dataset.dialog) {
      openDialog(document.getElementById(target.dataset.dialog), target.dataset);
    } else if ("close" in target.dataset) {
      target.closest("dialog")?.close();
    } else if ("dismiss" in target.dataset) {
      target.closest(".sd-message").remove();
    } else if (target.dataset.loadExample) {
      click.preventDefault();
      const spec = document.getElementById("spec");
      const source = document.getElementById(target.dataset.loadExample).content.textContent;
      const own = spec.value.trim() && ![...document.querySelectorAll("template")].some((t) => t.content.textContent === spec.value);
      if (own && !confirm("Replace what you have written?")) return;
      spec.value = source;
      spec.focus();
      spec.setSelectionRange(0, 0);
      spec.scrollTop = 0;
    } else if (target.dataset.goToLine) {
      const spec = document.getElementById("spec");
      const lines = spec.value.split("\n");
      const line = Math.min(Number(target.dataset.goToLine), lines.length) - 1;
      const start = lines.slice(0, line).join("\n").length + (line ? 1 : 0);
      spec.focus();
      spec.setSelectionRange(start, start + lines[line].length);
      spec.scrollTop = (spec.scrollHeight / lines.length) * Math.max(0, line - 4);
    }
  });

  document.addEventListener("click", (click) => {
    if (click.target instanceof HTMLDialogElement) click.target.close(); // on its backdrop
  });

  document.addEventListener("change", (change) => {
    if (change.target.matches("[data-submit-on-change] select")) change.target.form.requestSubmit();
  });

  // Empty fields stay out of the address.
  document.addEventListener("submit", (submit) => {
    if (!submit.target.matches("[data-submit-on-change]")) return;
    for (const field of submit.target.elements) if (field.name && !field.value) field.disabled = true;
  });
  addEventListener("pageshow", () => {
    for (const field of document.querySelectorAll("[data-submit-on-change] :disabled")) field.disabled = false;
  });

  // One click submits once.
  document.addEventListener("submit", (submit) => {
    if (submit.target.method !== "post" || submit.defaultPrevented) return;
    const button = submit.submitter;
    if (button) setTimeout(() => (button.disabled = true));
  });

  document.addEventListener("keydown", (key) => {
    if (key.key === "/" && !key.target.closest("input, textarea, select") && !key.ctrlKey && !key.metaKey) {
      const search = document.querySelector("[data-search]");
      if (search) {
        key.preventDefault();
        search.focus();
      }
    } else if (key.key === "Escape") {
      const button = document.querySelector("[data-menu][aria-expanded=true]");
      button?.click();
      button?.focus();
    }
  });

  showTheme();
  tellTime();
  if (!body.dataset.after) return; // a page without a session

  setInterval(tellTime, 5000);
  setInterval(() => {
    if (performance.now() - loadedAt > QUIET_MS) refreshAll();
    // The server speaks every 20 seconds; a socket that is silent for longer is dead, though nobody has said so.
    if (socket && performance.now() - heardAt > QUIET_MS + 10000) socket.close();
  }, 2500);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    tellTime();
    if (due.size || performance.now() - loadedAt > REFRESH_MS * 4) refreshAll();
    if (!socket) connect();
  });
  addEventListener("online", () => socket || connect());
  connect();

  // -- copying -------------------------------------------------------------------------------------------------------

  body.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const field = document.getElementById(button.dataset.copy);
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      document.execCommand("copy"); // pages without TLS have no clipboard of their own
    }
    button.querySelector("span:last-child").textContent = "Copied";
  });
})();
