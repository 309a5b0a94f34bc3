// Draws the charts and keeps the page fresh. Everything it shows comes from status/data.json.
"use strict";

(() => {
  const REFRESH = 5000;
  const source = document.getElementById("main").dataset.source;
  const told = document.getElementById("refresh");
  const drawn = new Map(); // chart id -> shape (the specification without its rows), rows, view
  const options = {
    actions: false, // no menu, and no style sheet: the policy of the page refuses both
    ast: true, // expressions are interpreted, never compiled from text
    defaultStyle: false,
    renderer: "svg",
    tooltip: { theme: "page", disableDefaultStyle: true },
  };

  async function draw(id, spec) {
    const figure = document.getElementById(`chart-${id}`);
    if (!figure) return;
    const plot = figure.querySelector(".plot");
    const before = drawn.get(id);
    const { data, ...rest } = spec ?? {};
    const shape = JSON.stringify(rest);
    const rows = JSON.stringify(data?.values);
    if (before && spec && before.shape === shape) {
      if (before.rows === rows) return;
      await before.view.data(data.name, data.values).runAsync(); // in place: nothing flickers
      drawn.set(id, { ...before, rows });
      return;
    }
    if (before) before.view.finalize();
    drawn.delete(id);
    plot.replaceChildren();
    if (!spec) return;
    try {
      const description = figure.querySelector(".about").textContent;
      const { view } = await window.vegaEmbed(plot, { ...spec, description }, options);
      drawn.set(id, { shape, rows, view });
    } catch (error) {
      plot.replaceChildren();
      const empty = figure.querySelector(".empty");
      empty.textContent = `This chart cannot be drawn: ${error.message}`;
      empty.hidden = false;
    }
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  const parts = new Map();
  function show(name, html) {
    if (parts.get(name) === html) return;
    const place = document.getElementById(name);
    parts.set(name, html);
    if (name === "charts") {
      const fresh = document.createElement("template"); // only the words: the drawings stay
      fresh.innerHTML = html;
      for (const words of fresh.content.querySelectorAll(".about, .empty")) {
        const { id } = words.closest("figure");
        place.querySelector(`#${id} .${words.className}`).replaceWith(words);
      }
      return;
    }
    const focused = place.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    place.innerHTML = html;
    if (focused) place.querySelector(`[aria-label="${focused}"]`)?.focus({ preventScroll: true });
  }

  let busy = false;
  async function refresh() {
    if (busy) return;
    busy = true;
    try {
      const answer = await fetch(source, { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const data = await answer.json();
      for (const [name, html] of Object.entries(data.parts)) show(name, html);
      for (const [id, spec] of Object.entries(data.charts)) await draw(id, spec);
      document.body.classList.remove("away");
      say(told, `As of ${data.status.time.slice(0, 19).replace("T", " ")} UTC, refreshed every ${REFRESH / 1000} s.`);
    } catch (error) {
      document.body.classList.add("away");
      say(told, "The service does not answer: what is shown here is old. Trying again.");
    } finally {
      busy = false;
    }
  }

  async function follow() {
    if (!document.hidden) await refresh();
    setTimeout(follow, REFRESH);
  }

  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  follow();
})();
