(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('parts');
  const [choice, back, picture, image, canvas, legend, bars, words] = ['select', '.back', '.picture', 'img', 'canvas',
    '.legend', '.bars', 'p'].map(name => box.querySelector(name));
  const palette = view.colors.map(color => [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16)));
  const STRENGTH = 0.85, FAINT = 5;  // of the colours; a map in per cent below which there is no part to click
  const away = new Set();
  let photograph;

  const percent = p => `${(100 * p).toFixed(1)}\u00a0%`;
  const points = p => {
    const text = (100 * p).toFixed(1);
    return text > 0 ? `+${text}` : text.replace('-', '−');
  };
  const list = (items, last) => items.length > 1 ? `${items.slice(0, -1).join(', ')} ${last} ${items.at(-1)}` : items[0];

  // Shapley values for the first answer, in probability: exact, as the answers without each subset are all there.
  function shapley({maps, probabilities}) {
    const rank = maps.length, first = probabilities[0].indexOf(Math.max(...probabilities[0]));
    const factorial = n => n > 1 ? n * factorial(n - 1) : 1, bits = n => n && (n & 1) + bits(n >> 1);
    return maps.map((_, k) => probabilities.reduce((sum, p, gone) => {
      if (gone & 1 << k) return sum;
      const missing = bits(gone), orders = factorial(missing) * factorial(rank - 1 - missing);
      return sum + orders / factorial(rank) * (p[first] - probabilities[gone | 1 << k][first]);
    }, 0));
  }

  function open(name) {
    choice.value = name;
    photograph = view.photographs[name];
    away.clear();
    image.src = photograph.picture;
    legend.innerHTML = shapley(photograph).map((value, k) =>
      `<button type="button" data-k="${k}"><i style="background:${view.colors[k]}"></i>part ${k + 1} `
      + `<small>${points(value)}</small></button>`).join('');
    bars.replaceChildren(...photograph.classes.flatMap(name => {
      const [label, track, now, change] = ['span', 'div', 'data', 'data'].map(tag => document.createElement(tag));
      label.textContent = name;
      track.innerHTML = '<i></i><b></b>';
      return [label, track, now, change];
    }));
  }

  // As nmfcore.heatmaps.overlay, on the grid of the maps: the browser enlarges it over the photograph, in grey.
  function colour() {
    const {maps, width} = photograph, area = maps[0].length;
    const out = new ImageData(width, area / width), left = maps.map((_, k) => k).filter(k => !away.has(k));
    for (let i = 0; i < area; i++) {
      const squares = left.map(k => maps[k][i] ** 2), sum = Math.max(1e-6, squares.reduce((a, b) => a + b, 0));
      for (let c = 0; c < 3; c++)
        out.data[4 * i + c] = left.reduce((hue, k, j) => hue + squares[j] * palette[k][c], 0) / sum;
      out.data[4 * i + 3] = 255 * STRENGTH * Math.sqrt(Math.max(0, ...left.map(k => maps[k][i])) / 100);
    }
    Object.assign(canvas, {width, height: area / width}).getContext('2d').putImageData(out, 0, 0);
  }

  function draw() {
    const {classes, probabilities} = photograph, gone = [...away].sort((a, b) => a - b);
    const before = probabilities[0], now = probabilities[gone.reduce((sum, k) => sum + 2 ** k, 0)];
    const [first, answer] = [before, now].map(p => p.indexOf(Math.max(...p)));
    colour();
    for (const button of legend.children) button.setAttribute('aria-pressed', !away.has(+button.dataset.k));
    back.disabled = !gone.length;
    classes.forEach((_, c) => {
      const [label, track, told, change] = [0, 1, 2, 3].map(j => bars.children[4 * c + j]);
      label.classList.toggle('answer', c == answer);
      track.children[0].style.width = `${100 * now[c]}%`;
      track.children[1].style.left = `${100 * before[c]}%`;
      told.value = now[c];
      told.textContent = percent(now[c]);
      change.value = now[c] - before[c];
      change.textContent = gone.length ? points(now[c] - before[c]) : '';
    });
    const names = gone.map(k => k + 1), which = `${names.length > 1 ? 'parts' : 'part'} ${list(names, 'and')}`;
    picture.setAttribute('aria-label', `${choice.value} in grey, under the colours of the parts that are left: `
      + (list(present(), 'and') ?? 'none'));
    words.textContent = !gone.length ? `Untouched: ${classes[first]} ${percent(before[first])}.`
      : `Without ${which}: ${classes[first]} ${percent(now[first])}, untouched ${percent(before[first])}. `
        + (answer == first ? 'The answer stays.' : `The answer is now ${classes[answer]}, ${percent(now[answer])}.`);
  }

  const present = () => photograph.maps.map((_, k) => k + 1).filter(k => !away.has(k - 1));

  function toggle(k) {
    if (!away.delete(k)) away.add(k);
    draw();
    remember();
  }

  function remember() {
    const gone = [...away].map(k => k + 1).sort();
    const untouched = choice.value == Object.keys(view.photographs)[0] && !gone.length;
    state.set(untouched ? {photograph: null, away: null} : {photograph: choice.value, away: gone.join(',') || null});
  }

  function arrive() {
    const name = state.get('photograph'), gone = (state.get('away') ?? '').split(',').filter(Boolean).map(Number);
    if (!Object.hasOwn(view.photographs, name)) return false;
    open(name);
    gone.filter(k => Object.hasOwn(photograph.maps, k - 1)).forEach(k => away.add(k - 1));
    draw();
    box.scrollIntoView();
    return true;
  }

  legend.onclick = event => event.target.closest('button') && toggle(+event.target.closest('button').dataset.k);
  picture.onclick = event => {  // the part that is strongest there
    const {maps, width} = photograph, {left, top, width: across, height: down} = picture.getBoundingClientRect();
    const height = maps[0].length / width;
    const [x, y] = [[event.clientX - left, across, width], [event.clientY - top, down, height]]
      .map(([at, size, cells]) => Math.min(cells - 1, Math.max(0, Math.floor(at / size * cells))));
    const heat = maps.map(map => map[y * width + x]), most = Math.max(...heat);
    if (most >= FAINT) toggle(heat.indexOf(most));
  };
  back.onclick = () => {
    away.clear();
    draw();
    remember();
    legend.firstElementChild.focus();  // the button that had the focus is now disabled
  };
  choice.onchange = () => {
    open(choice.value);
    draw();
    remember();
  };
  state.onarrival(arrive);
  if (!arrive()) {
    open(choice.value);
    draw();
  }
})();
