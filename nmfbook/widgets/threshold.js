(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('threshold');
  const [photograph, reference, photo, map, mask, slider, told, line, mark, words] = ['.photograph', '.reference', 'img',
    '.map', '.mask', '[type=range]', 'output', 'polyline', 'line', 'p'].map(name => box.querySelector(name));
  const buttons = [...box.querySelectorAll('[data-k]')], percent = x => `${Math.round(100 * x)}\u00a0%`;
  let at, k = 0, steps, inside, curve;  // the entry, the factor, and what follows from them

  const color = () => [1, 3, 5].map(i => parseInt(view.colors[k].slice(i, i + 2), 16));

  function values() {  // of the factor's map, in [0, 1]
    const area = at.grid[0] * at.grid[1];
    return nmfDecoded(at.maps).subarray(k * area, (k + 1) * area);
  }

  function prepare() {  // another factor or outline
    inside = new Uint8Array(at.size[0] * at.size[1]);
    let place = 0;
    at.references[reference.value].forEach((run, i, runs) => {
      place += run;
      if (i % 2 == 0) inside.fill(1, place, place + (runs[i + 1] ?? Infinity));
    });
    const small = values();
    const [height, width] = at.grid;
    steps = Uint16Array.from(nmfEnlarged({values: small, width, height}, ...at.size), x => Math.ceil(x * view.steps));  // thresholds that a pixel exceeds
    const both = new Float64Array(view.steps + 1), either = new Float64Array(view.steps + 1);
    const whole = inside.reduce((a, b) => a + b);
    steps.forEach((count, i) => { (inside[i] ? both : either)[count]++; });
    curve = [];
    for (let t = view.steps - 1, hit = 0, miss = 0; t >= 0; t--) {
      hit += both[t + 1];
      miss += either[t + 1];
      curve[t] = whole + miss ? hit / (whole + miss) : 0;
    }
    line.setAttribute('points', curve.map((iou, t) => `${t},${1 - iou}`).join(' '));

    Object.assign(map, {width, height});
    paint(map, [...small].map(x => [...color().map(c => c * x), 255]));
    map.setAttribute('aria-label', `${at.name}: map of factor ${k + 1}, ${at.grid.join(' by ')} positions`);
    for (const button of buttons) button.setAttribute('aria-pressed', button.dataset.k == k);
    draw();
  }

  function paint(canvas, pixels) {
    const image = new ImageData(canvas.width, canvas.height);
    pixels.forEach((pixel, i) => image.data.set(pixel, 4 * i));
    canvas.getContext('2d').putImageData(image, 0, 0);
  }

  function draw() {  // another threshold
    const t = +slider.value, [width, height] = at.size, hue = color();
    const image = new ImageData(width, height), data = image.data;
    let area = 0, outline = 0;
    for (let i = 0; i < steps.length; i++) {
      const within = steps[i] > t, x = i % width;
      area += within;
      outline += inside[i];
      const border = x && inside[i] != inside[i - 1] || i >= width && inside[i] != inside[i - width]
        || x < width - 1 && inside[i] != inside[i + 1] || i + width < steps.length && inside[i] != inside[i + width];
      const [r, g, b, opacity] = border ? inside[i] ? [255, 255, 255, 255] : [0, 0, 0, 255]
        : within ? [...hue, 150] : [0, 0, 0, 70];
      data[4 * i] = r;
      data[4 * i + 1] = g;
      data[4 * i + 2] = b;
      data[4 * i + 3] = opacity;
    }
    mask.getContext('2d').putImageData(image, 0, 0);
    mask.setAttribute('aria-label', `${at.name} under the mask of factor ${k + 1}, with the outline ${reference.value}`);
    const best = curve.indexOf(Math.max(...curve));
    told.value = percent(t / view.steps);
    slider.setAttribute('aria-valuetext', told.value);
    mark.setAttribute('x1', t);
    mark.setAttribute('x2', t);
    words.textContent = `Factor ${k + 1} above ${told.value} of its largest value: ${percent(area / steps.length)} of the `
      + `photograph; the outline “${reference.value}”: ${percent(outline / steps.length)}. Intersection over union `
      + `${curve[t].toFixed(2)}; at best ${curve[best].toFixed(2)}, above ${percent(best / view.steps)}.`;
  }

  function open() {  // another photograph
    at = view.photographs[photograph.value];
    photo.src = at.webp;
    [mask.width, mask.height] = at.size;
    reference.replaceChildren(...Object.keys(at.references).map(name => new Option(name, name)));
    prepare();
  }

  function remember() {
    state.set({photograph: at.name, factor: k + 1, outline: reference.value, at: slider.value});
  }

  function arrive() {  // what the address says, as far as this view has it
    const index = view.photographs.findIndex(({name}) => name == state.get('photograph'));
    if (index < 0) return;
    photograph.value = index;
    k = Math.max(0, buttons.findIndex(button => button.dataset.k == state.get('factor') - 1));
    if (/^\d\d?$/.test(state.get('at'))) slider.value = state.get('at');
    open();
    if (Object.hasOwn(at.references, state.get('outline'))) {
      reference.value = state.get('outline');
      prepare();
    }
  }

  const then = (...steps) => () => [...steps, remember].forEach(step => step());
  photograph.onchange = then(open);
  reference.onchange = then(prepare);
  slider.oninput = then(draw);
  for (const button of buttons) button.onclick = then(() => { k = +button.dataset.k; }, prepare);
  state.onarrival(arrive);
  open();
  arrive();
})();
