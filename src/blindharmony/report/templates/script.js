(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");

  function all(selector, act) {
    Array.prototype.forEach.call(document.querySelectorAll(selector), act);
  }

  // The wipe: one position for all planes.
  var position = 50;
  function wipe(value) {
    position = Math.max(0, Math.min(100, value));
    root.style.setProperty("--split", position + "%");
    all("input[data-wipe]", function (input) { input.value = position; });
  }
  all("input[data-wipe]", function (input) {
    input.addEventListener("input", function () { wipe(Number(input.value)); });
    wipe(Number(input.value));
  });
  all("button[data-swap]", function (button) {
    button.addEventListener("click", function () { wipe(position > 0 ? 0 : 100); });
  });
  all(".frame[data-compare]", function (frame) {
    function follow(event) {
      var box = frame.getBoundingClientRect();
      wipe(Math.round((100 * (event.clientX - box.left)) / box.width));
    }
    frame.addEventListener("pointerdown", follow);
    frame.addEventListener("pointermove", function (event) { if (event.buttons) { follow(event); } });
  });

  // Slices: every figure shows the same place in the head.
  function slice(plane, value) {
    root.style.setProperty("--at-" + plane, value - 1);
    all('input[data-slice="' + plane + '"]', function (input) {
      input.value = value;
      input.parentNode.querySelector("output").textContent = value + " of " + input.max;
    });
  }
  all("input[data-slice]", function (input) {
    input.addEventListener("input", function () { slice(input.dataset.slice, Number(input.value)); });
    // A browser may remember an earlier position over a reload.
    slice(input.dataset.slice, Number(input.defaultValue));
  });

  all("input[data-toggle]", function (input) {
    input.checked = true;
    input.addEventListener("change", function () {
      all("." + input.dataset.toggle, function (layer) { layer.hidden = !input.checked; });
    });
  });

  all("button[data-copy]", function (button) {
    button.addEventListener("click", function () {
      var range = document.createRange();
      range.selectNodeContents(document.getElementById(button.dataset.copy));
      var selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      // The clipboard interface is closed to local files in some browsers; this one is open in all.
      var done = document.execCommand("copy");
      button.textContent = done ? "Copied" : "Selected: now press Ctrl+C";
    });
  });
})();
