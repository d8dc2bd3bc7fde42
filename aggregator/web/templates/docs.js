"use strict";
const filter = document.getElementById("filter");
const parts = [...document.querySelectorAll("[data-filter]")].map((part) => [part, part.textContent.toLowerCase()]);
const links = new Map([...document.querySelectorAll("[data-for]")].map((link) => [link.dataset.for, link]));

function show() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const [part, text] of parts) {
    const fits = words.every((word) => text.includes(word));
    part.hidden = !fits;
    found += fits;
    const link = links.get(part.id);
    if (link) link.hidden = !fits;
  }
  document.getElementById("none").hidden = found > 0;
}

function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.hidden) {
    filter.value = "";
    show();
  }
  const around = target.closest("details");
  if (around) around.open = true;
  target.scrollIntoView();
}

filter.addEventListener("input", show);
addEventListener("hashchange", open);
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== filter) {
    event.preventDefault();
    filter.focus();
  }
});
show();
open();
