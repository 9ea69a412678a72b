// The widget manager asks MathJax 2 to typeset its labels. The book has MathJax 3: translate.
document.addEventListener("DOMContentLoaded", function () {
  "use strict";
  if (!window.MathJax || window.MathJax.Hub) return;
  window.MathJax.Hub = {
    Queue: function (call) {
      if (call[0] === "Typeset" && window.MathJax.typesetPromise) {
        window.MathJax.typesetPromise(call[2] ? [call[2]] : undefined);
      }
    },
  };
});

// The readiness test: questions from a JSON block; the first answer of each is the right one.
(function () {
  "use strict";

  function shuffled(items, seed) {
    // the same order at each visit: a small linear congruential generator
    const out = items.slice();
    for (let i = out.length - 1; i > 0; i--) {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      const j = seed % (i + 1);
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }

  function element(tag, className, html) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (html) node.innerHTML = html;
    return node;
  }

  function build(root) {
    const questions = JSON.parse(document.getElementById(root.dataset.questions).textContent);
    const score = element("p", "readiness-score");
    score.setAttribute("aria-live", "polite");
    let answered = 0, right = 0;

    function report() {
      const rest = questions.length - answered;
      let verdict = "";
      if (rest === 0) {
        verdict = right >= 8 ? " You are ready: open chapter 1."
          : right >= 5 ? " Nearly: read the explanations above, then start."
          : " Read the explanations first; a course on PyTorch and transformers will make this one a pleasure.";
      }
      score.textContent = right + " right of " + answered + " answered." + verdict;
    }

    questions.forEach(function (item, number) {
      const card = element("fieldset", "readiness-question");
      card.append(element("legend", "", (number + 1) + ". " + item.q));
      const why = element("p", "readiness-why");
      why.hidden = true;
      shuffled(item.a, number + 7).forEach(function (answer) {
        const button = element("button", "readiness-answer", answer);
        button.type = "button";
        button.addEventListener("click", function () {
          if (card.dataset.done) return;
          card.dataset.done = "yes";
          const correct = answer === item.a[0];
          answered += 1;
          right += correct ? 1 : 0;
          button.classList.add(correct ? "is-right" : "is-wrong");
          card.querySelectorAll("button").forEach(function (other) {
            if (other.innerHTML === button.innerHTML && correct) return;
            if (other.dataset.right) other.classList.add("is-right");
            other.disabled = true;
          });
          why.innerHTML = (correct ? "<strong>Right.</strong> " : "<strong>Not quite.</strong> ") + item.why;
          why.hidden = false;
          report();
        });
        if (answer === item.a[0]) button.dataset.right = "yes";
        card.append(button);
      });
      card.append(why);
      root.append(card);
    });
    root.append(score);
    report();
  }

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll(".readiness").forEach(build);
  });
})();

// The landing page: a table of similarities whose temperature can be moved. Data: landing-data.js.
document.addEventListener("DOMContentLoaded", function () {
  "use strict";
  const figure = document.getElementById("landing-matrix");
  const data = window.clipnotesLanding;
  if (!figure || !data) return;
  const size = data.names.length;
  const cells = [];

  function node(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text) made.textContent = text;
    return made;
  }

  const grid = node("div", "grid");
  grid.style.gridTemplateColumns = "repeat(" + (size + 1) + ", minmax(2.6rem, 4.1rem))";
  grid.append(node("span"));
  data.names.forEach(function (name) { grid.append(node("span", "word", name)); });
  data.cosines.forEach(function (row, i) {
    const picture = node("img");
    picture.src = data.images[i];
    picture.alt = "A small drawing of " + data.names[i] + " on a coloured ground";
    grid.append(picture);
    cells.push(row.map(function () {
      const cell = node("span", "value");
      grid.append(cell);
      return cell;
    }));
  });

  const label = node("label", "", "Factor in front of the cosines ");
  const slider = node("input");
  Object.assign(slider, { type: "range", min: 0, max: 2, step: 0.01, value: Math.log10(data.factor) });
  const reading = node("output");
  label.append(slider, reading);
  const caption = node("figcaption");
  const side = node("div", "side");
  side.append(label, caption);
  figure.append(grid, side);
  figure.hidden = false;

  function draw() {
    const factor = Math.pow(10, Number(slider.value));
    let right = 0;
    data.cosines.forEach(function (row, i) {
      const top = Math.max.apply(null, row);
      const powers = row.map(function (c) { return Math.exp(factor * (c - top)); });
      const sum = powers.reduce(function (a, b) { return a + b; });
      right += row[i] === top ? 1 : 0;
      powers.forEach(function (power, j) {
        const share = power / sum;
        const cell = cells[i][j];
        cell.textContent = Math.round(100 * share) + " %";
        cell.style.background = "color-mix(in srgb, var(--cn-image) " + Math.round(85 * share) + "%, transparent)";
        cell.style.color = share > 0.6 ? "var(--pst-color-background)" : "";
        cell.classList.toggle("best", row[j] === top);
      });
    });
    reading.textContent = factor.toFixed(factor < 10 ? 1 : 0);
    const learned = Math.abs(factor - data.factor) < 0.06 * data.factor ? " This is the factor that it learned." : "";
    caption.textContent = "Which name belongs to which picture? The small CLIP of this course answers, row by row: " +
      right + " of " + size + " right, among these " + size + " names. The artist's work was not in its training." +
      learned + " Move the factor: the order stays, the certainty does not.";
  }

  slider.addEventListener("input", draw);
  draw();
});
