// Draws calls by minute from the numbers that a canvas carries. A part that loads anew brings new canvases.
(() => {
  "use strict";

  const drawn = new Map(); // canvas: chart

  function colour(name) {
    return getComputedStyle(document.body).getPropertyValue(name).trim();
  }

  function draw(canvas) {
    const { start, answered, failed, limited } = JSON.parse(canvas.dataset.chart);
    const first = Date.parse(start);
    const at = (minute) => new Date(first + minute * 60000);
    const ago = (minute) => Math.max(0, Math.floor((Date.now() - at(minute)) / 60000));
    const bars = (label, data, fill) => ({ label, data, backgroundColor: fill, stack: "calls", barPercentage: 1, categoryPercentage: 0.86 });
    const small = { size: 11, family: "Inter, sans-serif" };
    const font = { font: small, color: colour("--dim") };
    return new Chart(canvas, {
      type: "bar",
      data: {
        labels: answered.map((_, minute) => minute),
        datasets: [
          bars("answered", answered, colour("--busy-fill")),
          bars("failed", failed, colour("--bad-fill")),
          bars("slowed down (429)", limited, colour("--wait-fill")),
        ],
      },
      options: {
        animation: false,
        maintainAspectRatio: false,
        interaction: { mode: "index", intersect: false },
        scales: {
          x: {
            stacked: true,
            grid: { display: false },
            border: { color: colour("--line") },
            ticks: { ...font, maxRotation: 0, autoSkip: false, callback: (_, minute) => (minute === 59 ? "now" : minute % 15 === 0 && minute < 59 ? `${60 - minute} min ago` : null) },
          },
          y: {
            stacked: true,
            beginAtZero: true,
            grid: { color: colour("--line") },
            border: { display: false },
            title: { display: true, text: "calls / min", ...font },
            ticks: { ...font, precision: 0, maxTicksLimit: 4 },
          },
        },
        plugins: {
          legend: { position: "bottom", align: "start", labels: { ...font, boxWidth: 10, boxHeight: 10, padding: 8 } },
          tooltip: { callbacks: { title: ([bar]) => `${at(bar.dataIndex).toISOString().slice(11, 16)} UTC, ${ago(bar.dataIndex)} min ago` } },
        },
      },
    });
  }

  function drawAll(anew) {
    for (const [canvas, chart] of drawn) {
      if (anew || !canvas.isConnected) {
        chart.destroy();
        drawn.delete(canvas);
      }
    }
    for (const canvas of document.querySelectorAll("canvas[data-chart]")) if (!drawn.has(canvas)) drawn.set(canvas, draw(canvas));
  }

  drawAll();
  document.body.addEventListener("htmx:oobAfterSwap", () => drawAll());
  new MutationObserver(() => drawAll(true)).observe(document.documentElement, { attributeFilter: ["class"] });
})();
