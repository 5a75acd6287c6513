(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('student');
  const [choice, files, slider, told, again, save, legend, sheet, words] = ['select', '[type=file]', '[type=range]',
    'output', '.again', '.save', '.legend', '.sheet', 'p'].map(name => box.querySelector(name));
  const OWN = '', MEGABYTES = 50, STRIP = 25;
  const palette = view.colors.map(color => [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16) / 255));
  const sets = new Map();  // name -> photographs: {name, picture, small, canvas, maps}
  let opened, photographs = [], K = +slider.value, start = 1, coloured = 0, pinned = null, pointed = null, notes = '';

  class Trouble extends Error {}  // a message for the reader

  // --- photographs ---

  function pixels(bitmap, width, height) {
    const context = Object.assign(document.createElement('canvas'), {width, height}).getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  }

  async function scaled(bitmap, area) {  // to about so many pixels, the proportions kept
    const scale = Math.sqrt(area / (bitmap.width * bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map(side => Math.max(1, Math.round(scale * side)));
    const small = await createImageBitmap(bitmap, {resizeWidth: width, resizeHeight: height, resizeQuality: 'high'});
    return pixels(small, width, height);
  }

  async function read(blob, name) {
    const megabytes = Math.round(blob.size / 2 ** 20);
    if (megabytes > MEGABYTES) throw new Trouble(`${name} is too large: ${megabytes} MB, of at most ${MEGABYTES}.`);
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob, {imageOrientation: 'from-image'});
    } catch {
      throw new Trouble(`${name} is not an image that this browser can read.`);
    }
    const [short, long] = [bitmap.width, bitmap.height].sort((a, b) => a - b);
    if (long > STRIP * short) throw new Trouble(`${name} is too narrow a strip: crop it.`);
    const [small, picture] = [await scaled(bitmap, view.area), await scaled(bitmap, view.shown)];
    bitmap.close();
    return {name, picture, small, canvas: Object.assign(document.createElement('canvas'),
      {width: picture.width, height: picture.height})};
  }

  async function choose(name) {
    choice.value = name;
    if (!sets.has(name)) sets.set(name, await Promise.all(view.sets[name].map(({name, webp}) =>
      read(new Blob([Uint8Array.from(atob(webp.split(',')[1]), c => c.charCodeAt(0))], {type: 'image/webp'}), name))));
    if (choice.value != name) return;  // the reader has chosen another one meanwhile
    notes = '';
    put(sets.get(name));
  }

  async function take(list) {
    const given = [...list], readable = [], wrong = [];
    for (const file of given.slice(0, view.most)) {  // one after the other: large ones take memory
      say(`Reading ${file.name} …`);
      try {
        readable.push(await read(file, file.name));
      } catch (error) {
        wrong.push(error instanceof Trouble ? error.message : `${file.name} cannot be read: ${error.message}`);
      }
    }
    if (given.length > view.most) wrong.push(`Of ${given.length} files the first ${view.most} were taken.`);
    if (!readable.length) return say(wrong.join(' ') || 'That was no file.');
    notes = wrong.join(' ');
    sets.set(OWN, readable);
    const own = choice.querySelector(`[value="${OWN}"]`);
    own.disabled = own.hidden = false;
    choice.value = OWN;
    put(readable);
    colour();
  }

  function put(set) {
    photographs = set;
    sheet.replaceChildren(...set.map(({name, canvas}) => {
      const tile = document.createElement('div'), label = document.createElement('span');
      label.textContent = name;
      tile.append(canvas, label);
      return tile;
    }));
    for (const photograph of set) {
      photograph.maps = null;
      photograph.canvas.setAttribute('role', 'img');
    }
    coloured = 0;
    draw();
  }

  // --- the worker ---

  const asked = [];
  let worker, engine = null, sent = null, passed = null;  // the set that the worker has, and what it took

  function ask(errand, given) {
    return new Promise((resolve, reject) => {
      asked.push({resolve, reject});
      worker.postMessage({errand, given});
    });
  }

  async function load() {
    if (!globalThis.nmfStudent) await new Promise(resolve => document.head.append(
      Object.assign(document.createElement('script'), {src: view.weights, onload: resolve, onerror: resolve})));
    if (!globalThis.nmfStudent)
      throw new Trouble('The weights of the network are not beside this page: open the built site.');
    const address = URL.createObjectURL(new Blob([view.engine], {type: 'text/javascript'}));
    worker = new Worker(address);
    worker.onmessage = ({data}) => {
      const {resolve, reject} = asked.shift();
      if ('trouble' in data) reject(new Error(data.trouble));
      else resolve(data);
    };
    worker.onerror = event => asked.splice(0).forEach(({reject}) => reject(new Error(event.message)));
    await ask('weights', globalThis.nmfStudent);
  }

  function ready() {
    engine ??= load().catch(error => {
      engine = null;
      throw error;
    });
    return engine;
  }

  // --- colours ---

  let running = false, wanted = false;

  async function colour() {  // what is wanted last; what came before is dropped
    wanted = true;
    if (running) return;
    running = true;
    box.setAttribute('aria-busy', 'true');
    while (wanted) {
      wanted = false;
      try {
        await factorize();
      } catch (error) {
        say(error instanceof Trouble ? error.message : `It failed: ${error.message}`);
      }
    }
    box.removeAttribute('aria-busy');
    running = false;
  }

  async function factorize() {
    await opened;
    const set = photographs, rank = K, seed = start;
    if (!engine) say('Loading the network, once …');
    await ready();
    if (sent != set) {
      say('Running the network …');
      const given = set.map(({small: {data, width, height}}) => ({pixels: data, width, height}));
      passed = (await ask('photographs', given)).seconds;
      sent = set;
    }
    const {answer: {maps, sizes, error, sweeps}, seconds} = await ask('factors', {K: rank, seed});
    if (wanted || set != photographs) return;
    set.forEach((photograph, i) => { photograph.maps = {values: maps[i], ...sizes[i]}; });
    coloured = rank;
    pinned = pointed = null;
    again.textContent = 'another start';
    draw();
    remember();
    const network = passed === null ? '' : `the network took ${passed.toFixed(2)} s, `;
    passed = null;
    say(`${notes} K = ${rank}, start ${seed}: ${network}${sweeps} sweeps of NMF ${seconds.toFixed(2)} s; `
      + `relative error ${Math.round(100 * error)}\u00a0%. Nothing was uploaded.`);
  }

  // With `only`, of that factor alone.
  function overlaid({picture, maps}, only) {
    return nmfOverlaid(picture, maps, only === null ? [...Array(coloured).keys()] : [only], palette);
  }

  function tops({values, width, height}) {  // the largest value of each map
    const map = k => values.subarray(k * width * height, (k + 1) * width * height);
    return Array.from({length: coloured}, (_, k) => map(k).reduce((a, b) => Math.max(a, b)));
  }

  function draw() {
    const only = pointed ?? pinned;
    for (const photograph of photographs) {
      const {name, canvas, picture, maps} = photograph;
      canvas.getContext('2d').putImageData(maps ? overlaid(photograph, only) : picture, 0, 0);
      canvas.setAttribute('aria-label', maps ? `${name} in grey, under its heatmaps; in per cent of their peaks it has `
        + tops(maps).map((top, k) => `factor ${k + 1}, ${Math.round(100 * top)}`).join('; ') : name);
    }
    if (legend.childElementCount != coloured) legend.innerHTML = view.colors.slice(0, coloured).map((color, k) =>
      `<button type="button" data-k="${k}"><i style="background:${color}"></i>factor ${k + 1}</button>`).join('');
    for (const button of legend.children) {
      button.setAttribute('aria-pressed', pinned == button.dataset.k);
      button.classList.toggle('faded', only !== null && only != button.dataset.k);
    }
    save.disabled = !coloured;
  }

  function say(text) {
    words.textContent = text.trim();
  }

  // --- the reader ---

  function alone(k) {  // a colour by itself; the same once more, all of them
    pinned = pinned === k ? null : k;
    pointed = null;
    draw();
  }

  const factor = event => event.target.closest('button') && +event.target.closest('button').dataset.k;
  const point = k => {
    if (pointed === k) return;
    pointed = k;
    draw();
  };
  legend.onclick = event => factor(event) !== null && alone(factor(event));
  legend.addEventListener('focusin', event => event.target.matches(':focus-visible') && point(factor(event)));
  legend.addEventListener('focusout', () => point(null));
  legend.onpointerover = event => event.pointerType == 'mouse' && point(factor(event));
  legend.onpointerleave = () => point(null);

  sheet.onclick = event => {  // the factor that is strongest there
    const photograph = photographs.find(({canvas}) => canvas == event.target);
    if (!photograph?.maps) return;
    const {maps: {values, width, height}, canvas: {clientWidth, clientHeight}} = photograph;
    const [x, y] = [event.offsetX / clientWidth * width, event.offsetY / clientHeight * height].map(Math.floor);
    const place = Math.min(y, height - 1) * width + Math.min(x, width - 1);
    const heat = [...Array(coloured).keys()].map(k => values[k * width * height + place]);
    alone(pinned ?? heat.indexOf(Math.max(...heat)));
  };

  choice.onchange = () => {
    opened = choose(choice.value);
    colour();
  };
  function ranked() {
    K = told.value = +slider.value;
    colour();
  }
  slider.oninput = ranked;
  again.onclick = () => {
    if (coloured) start++;
    colour();
  };
  files.onchange = () => {
    take(files.files);
    files.value = '';
  };
  box.ondragover = event => {
    if (![...event.dataTransfer.types].includes('Files')) return;
    event.preventDefault();
    box.classList.add('over');
  };
  box.ondragleave = event => box.contains(event.relatedTarget) || box.classList.remove('over');
  box.ondrop = event => {
    event.preventDefault();
    box.classList.remove('over');
    take(event.dataTransfer.files);
  };

  save.onclick = () => {  // all photographs as they are shown, in rows
    const gap = 8, across = Math.ceil(Math.sqrt(photographs.length)), rows = [];
    for (let i = 0; i < photographs.length; i += across) rows.push(photographs.slice(i, i + across).map(p => p.canvas));
    const wide = row => row.reduce((sum, canvas) => sum + canvas.width + gap, -gap);
    const high = row => Math.max(...row.map(canvas => canvas.height));
    const all = Object.assign(document.createElement('canvas'),
      {width: Math.max(...rows.map(wide)), height: rows.reduce((sum, row) => sum + high(row) + gap, -gap)});
    let y = 0;
    for (const row of rows) {
      let x = 0;
      for (const canvas of row) {
        all.getContext('2d').drawImage(canvas, x, y);
        x += canvas.width + gap;
      }
      y += high(row) + gap;
    }
    all.toBlob(blob => {
      const href = URL.createObjectURL(blob);
      Object.assign(document.createElement('a'), {href, download: `nmf_K${coloured}.png`}).click();
      setTimeout(() => URL.revokeObjectURL(href), 1000);
    });
  };

  // --- the address ---

  function remembered() {
    const set = state.get('set');
    const [rank, seed] = ['K', 'start'].map(name => /^[1-9]\d{0,5}$/.test(state.get(name)) && +state.get(name));
    return Object.hasOwn(view.sets, set) && rank && rank <= +slider.max && seed ? {set, rank, seed} : null;
  }

  function remember() {  // the reader's own photographs have no name that others know
    state.set(choice.value == OWN ? {set: null, K: null, start: null} : {set: choice.value, K, start});
  }

  function arrive() {
    const shared = remembered();
    if (!shared) return false;
    slider.value = shared.rank;
    start = shared.seed;
    opened = choose(shared.set);
    ranked();
    box.scrollIntoView();
    return true;
  }

  function begin() {  // with what was computed before
    if (!view.begun.length) return;
    photographs.forEach((photograph, i) => {
      photograph.maps = {...view.begun[i], values: nmfDecoded(view.begun[i].values)};
    });
    coloured = K;
    again.textContent = 'another start';
    draw();
  }

  state.onarrival(arrive);
  say(`${view.begun.length ? 'Computed when this page was made. Move K, take another start or drop photographs'
    : 'Press a button'}: the network is then loaded from this site and runs here. Nothing is uploaded.`);
  if (!arrive()) opened = choose(choice.value).then(begin);
  Object.assign(box, {ask, ready, overlaid, photographs: () => photographs});
})();
