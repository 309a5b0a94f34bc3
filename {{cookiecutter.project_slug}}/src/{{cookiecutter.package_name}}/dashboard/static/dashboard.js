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

  async function draw(chart) {
    const figure = document.getElementById(`chart-${chart.id}`);
    if (!figure) return;
    const plot = figure.querySelector(".plot");
    const empty = figure.querySelector(".empty");
    const before = drawn.get(chart.id);
    say(figure.querySelector(".about"), chart.about);
    if (!chart.spec) {
      if (before) before.view.finalize();
      drawn.delete(chart.id);
      plot.replaceChildren();
      empty.replaceChildren(...chart.empty.split("`").map((piece, n) => (n % 2 ? code(piece) : piece)));
      empty.hidden = false;
      return;
    }
    empty.hidden = true;
    const { data, description, ...rest } = chart.spec;
    const shape = JSON.stringify(rest);
    const rows = JSON.stringify(data.values);
    if (before && before.shape === shape) {
      if (before.rows === rows) return;
      const change = window.vega.changeset().remove(() => true).insert(data.values);
      await before.view.change(data.name, change).runAsync(); // in place: nothing flickers
      drawn.set(chart.id, { shape, rows, view: before.view });
      return;
    }
    if (before) before.view.finalize();
    try {
      const { view } = await window.vegaEmbed(plot, chart.spec, options);
      drawn.set(chart.id, { shape, rows, view });
    } catch (error) {
      drawn.delete(chart.id);
      plot.replaceChildren();
      empty.textContent = `This chart cannot be drawn: ${error.message}`;
      empty.hidden = false;
    }
  }

  function code(text) {
    const element = document.createElement("code");
    element.textContent = text;
    return element;
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  const parts = new Map();
  function show(name, html) {
    if (parts.get(name) === html) return;
    const place = document.getElementById(name);
    const focused = place.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    place.innerHTML = html;
    if (focused) place.querySelector(`[aria-label="${focused}"]`)?.focus({ preventScroll: true });
    parts.set(name, html);
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
      for (const chart of data.charts) await draw(chart);
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
