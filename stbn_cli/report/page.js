"use strict";

const TALLEST = 0.85; // of the window: the viewport's max-height

// Turns a list of pictures into a stage that shows two of them on either side of a divider. The list stays in the page
// for printing, and is all there is where scripts do not run.
function compare(section) {
  const find = (selector) => section.querySelector(selector);
  const pictures = [...section.querySelectorAll(".gallery figure")].map((figure) => ({
    image: figure.querySelector("img"),
    label: figure.querySelector(".label").textContent,
    text: figure.querySelector(".text")?.textContent ?? "",
  }));
  const comparison = find(".comparison");
  const viewport = find(".viewport");
  const stage = find(".stage");
  const slider = find(".slider");
  const zoom = find(".zoom");
  const width = Math.max(...pictures.map(({ image }) => image.naturalWidth));
  const height = Math.max(...pictures.map(({ image }) => image.naturalHeight));

  const selects = { left: find("select.left"), right: find("select.right") };
  const chosen = (side) => pictures[selects[side].value];

  function show(side) {
    const { image, label, text } = chosen(side);
    const shown = find(`img.${side}`);
    shown.src = image.src;
    shown.alt = label;
    find(`.tag.${side}`).textContent = label;
    find(`.caption.${side}`).textContent = text;
    slider.setAttribute("aria-label", `Divider: ${chosen("left").label} left, ${chosen("right").label} right`);
  }

  function divide() {
    stage.style.setProperty("--split", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${Math.round(slider.value)} %`);
  }

  // Where the picture is larger than the viewport, only the divider itself takes the pointer; the rest scrolls.
  function fit() {
    const overflows = stage.offsetWidth > viewport.clientWidth || stage.offsetHeight > viewport.clientHeight;
    stage.classList.toggle("pannable", overflows);
    if (overflows) {
      viewport.tabIndex = 0;
    } else {
      viewport.removeAttribute("tabindex");
    }
  }

  // CSS pixels for each of the picture's.
  function factor() {
    if (zoom.value !== "fit") return Number(zoom.value);
    return Math.min(1, comparison.clientWidth / width, (TALLEST * innerHeight) / height);
  }

  function magnify() {
    const across = (viewport.scrollLeft + viewport.clientWidth / 2) / viewport.scrollWidth;
    const down = (viewport.scrollTop + viewport.clientHeight / 2) / viewport.scrollHeight;
    stage.style.width = `${width * factor()}px`;
    stage.style.height = `${height * factor()}px`;
    stage.classList.toggle("shrunk", factor() < 1);
    fit();
    viewport.scrollLeft = across * viewport.scrollWidth - viewport.clientWidth / 2;
    viewport.scrollTop = down * viewport.scrollHeight - viewport.clientHeight / 2;
  }

  function choose(event) {
    const index = Number(event.key) - 1;
    if (pictures[index] && !event.ctrlKey && !event.altKey && !event.metaKey) {
      selects.right.value = index;
      show("right");
    }
  }

  for (const side of ["left", "right"]) {
    selects[side].addEventListener("change", () => show(side));
    show(side);
  }
  slider.addEventListener("input", divide);
  zoom.addEventListener("change", magnify);
  viewport.addEventListener("keydown", choose);
  comparison.hidden = false;
  section.classList.add("live");
  const factors = [...zoom.options].map((option) => Number(option.value));
  const fitting = factors.filter((factor) => factor * width <= comparison.clientWidth);
  zoom.value = fitting.length ? Math.max(...fitting) : "fit";
  divide();
  magnify();
  new ResizeObserver(fit).observe(viewport);
  new ResizeObserver(() => zoom.value === "fit" && magnify()).observe(comparison);
}

for (const section of document.querySelectorAll(".crops")) {
  const images = [...section.querySelectorAll(".gallery img")];
  // A picture that cannot be decoded leaves its set as the plain list.
  Promise.all(images.map((image) => image.decode())).then(() => compare(section), () => {});
}
