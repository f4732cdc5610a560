// Keyboard shortcuts, and a guard against double clicks. The page works without either.
"use strict";

const form = document.getElementById("answer");
const STORED = "textrl-shortcuts";
const DOUBLE_CLICK = 400; // milliseconds in which nobody has read a question
const AGAIN = 5000; // milliseconds after which an answer that did not arrive may be sent again
const shownAt = performance.now();
let sentAt = -Infinity;

// The second click of a double click must not answer the next question, whose buttons are where the last one's were.
form.addEventListener("submit", (event) => {
  const now = performance.now();
  if (now - shownAt < DOUBLE_CLICK || now - sentAt < AGAIN) event.preventDefault();
  else sentAt = now;
});

// A page that comes back from the browser's memory is old: its question may be answered.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) window.location.reload();
});

function isTyping(element) {
  return element.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
}

// A digit chooses in the group that has the focus, or else in the first one without a choice.
function chooseDigit(digit) {
  const groups = [...form.querySelectorAll("fieldset.scale")];
  const open = groups.find((group) => !group.querySelector("input:checked"));
  const group = groups.find((each) => each.contains(document.activeElement)) || open;
  const option = group && group.querySelector(`input[value="${digit}"]`);
  if (!option) return false;
  option.checked = true;
  const next = groups.find((each) => !each.querySelector("input:checked"));
  const target = next ? next.querySelector("input") : form.querySelector("button.main");
  target.focus();
  return true;
}

const toggle = document.createElement("input");
toggle.type = "checkbox";
toggle.id = "shortcuts";
try {
  toggle.checked = window.localStorage.getItem(STORED) !== "off";
} catch {
  toggle.checked = true; // storage is forbidden; the choice then holds for this page
}

function showKeys() {
  document.body.classList.toggle("with-shortcuts", toggle.checked);
}

for (const button of form.querySelectorAll("button[data-key]")) {
  const key = document.createElement("kbd");
  key.textContent = button.dataset.key.toUpperCase();
  key.setAttribute("aria-hidden", "true");
  button.setAttribute("aria-keyshortcuts", button.dataset.key);
  button.append(" ", key);
}

toggle.addEventListener("change", () => {
  showKeys();
  try {
    window.localStorage.setItem(STORED, toggle.checked ? "on" : "off");
  } catch {
    // storage is forbidden
  }
});

const label = document.createElement("label");
label.className = "shortcuts";
label.append(toggle, " Keyboard shortcuts");
form.append(label);
showKeys();

document.addEventListener("keydown", (event) => {
  if (!toggle.checked || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (isTyping(event.target)) return;
  const key = event.key.toLowerCase();
  if (!/^[0-9a-z]$/.test(key)) return; // Enter does what it always does
  const button = form.querySelector(`button[data-key="${key}"]`);
  if (button) {
    event.preventDefault();
    button.click();
  } else if (/^[1-9]$/.test(key) && chooseDigit(key)) {
    event.preventDefault();
  }
});
