(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('scrub');
  const [choice, factor, play, slider, words] = ['[data-of=film]', '[data-of=factor]', 'button', '[type=range]', 'p']
    .map(name => box.querySelector(name));
  const sides = [...box.querySelectorAll('.side')].map(side => ({way: side.querySelector('select'),
    canvas: side.querySelector('canvas'), bars: side.querySelector('svg')}));
  const palette = view.colors.map(color => [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16) / 255));
  const first = Object.keys(view.films)[0], STRENGTH = 0.85;
  const pictures = new Map();  // film -> ImageData of its frames
  let timer = null, asked = 0;

  async function decoded(name) {
    if (!pictures.has(name)) pictures.set(name, Promise.all(view.films[name].frames.map(async source => {
      const image = new Image();
      image.src = source;
      await image.decode();
      const [width, height] = [image.naturalWidth, image.naturalHeight];
      const context = Object.assign(document.createElement('canvas'), {width, height}).getContext('2d');
      context.drawImage(image, 0, 0);
      return context.getImageData(0, 0, width, height);
    })));
    return pictures.get(name);
  }

  function heatmaps({maps}, way) {  // values of all frames, decoded once
    maps[way].bytes ??= Uint8Array.from(atob(maps[way].values), c => c.charCodeAt(0));
    return maps[way];
  }

  // As nmfcore.heatmaps.overlay, of the maps enlarged by bilinear interpolation; of one factor or, with 0, of all.
  function overlaid({data, width, height}, {bytes, size: [h, w]}, frame, only) {
    const out = new ImageData(width, height), area = h * w, from = frame * view.factors * area;
    const factors = palette.map((_, k) => k).filter(k => !only || k == only - 1), heat = factors.map(() => 0);
    const places = (count, size) => Array.from({length: count}, (_, i) => {
      const at = Math.min(Math.max((i + 0.5) * size / count - 0.5, 0), size - 1), low = Math.floor(at);
      return [low, Math.min(low + 1, size - 1), at - low];
    });
    const rows = places(height, h), columns = places(width, w);
    for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i += 4) {
      const [top, bottom, down] = rows[y], [left, right, along] = columns[x];
      let squares = 0, most = 0;
      factors.forEach((k, j) => {
        const value = (row, column) => bytes[from + k * area + row * w + column] / 255;
        heat[j] = (1 - down) * ((1 - along) * value(top, left) + along * value(top, right))
          + down * ((1 - along) * value(bottom, left) + along * value(bottom, right));
        squares += heat[j] ** 2;
        most = Math.max(most, heat[j]);
      });
      const grey = (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) / 255;
      const opacity = STRENGTH * Math.sqrt(most);
      for (let c = 0; c < 3; c++) {
        const hue = factors.reduce((sum, k, j) => sum + heat[j] ** 2 * palette[k][c], 0) / Math.max(squares, 1e-6);
        out.data[i + c] = 255 * ((0.12 + 0.88 * grey) * (1 - opacity) + hue * (0.7 + 0.3 * grey) * opacity);
      }
      out.data[i + 3] = 255;
    }
    return out;
  }

  const told = value => value === null ? 'none' : value.toFixed(2);

  async function draw() {
    const turn = ++asked, name = choice.value, film = view.films[name], count = film.frames.length;
    slider.max = count;
    const frame = +slider.value - 1, frames = await decoded(name);
    if (turn != asked) return;  // the reader has gone on meanwhile
    slider.setAttribute('aria-valuetext', `frame ${frame + 1} of ${count}`);
    for (const {way: {value: way}, canvas, bars} of sides) {
      const picture = overlaid(frames[frame], heatmaps(film, way), frame, +factor.value), scores = film.scores[way];
      Object.assign(canvas, {width: picture.width, height: picture.height}).getContext('2d').putImageData(picture, 0, 0);
      canvas.setAttribute('aria-label', `${name}, frame ${frame + 1} in grey under heatmaps, ${way}`);
      bars.setAttribute('viewBox', `0 0 ${count} 1`);
      bars.setAttribute('aria-label', `${view.score} of each frame, ${way}`);
      bars.innerHTML = scores.map((score, t) => `<rect x="${t + 0.1}" width="0.8" y="${1 - Math.max(score, 0)}" `
        + `height="${Math.max(score, 0)}"${t == frame ? ' class="now"' : ''}/>`).join('');
    }
    words.textContent = `Frame ${frame + 1} of ${count}. ${view.score[0].toUpperCase()}${view.score.slice(1)}: `
      + `${sides.map(({way: {value: way}}) => `${way} ${told(film.scores[way][frame])}`).join(', ')}.`;
  }

  function remember() {
    const [left, right] = sides.map(({way}) => way.value);
    const untouched = choice.value == first && left == view.ways[0] && right == view.ways[1] && factor.value == '0'
      && slider.value == '1';
    state.set(untouched ? {film: null, left: null, right: null, factor: null, frame: null}
      : {film: choice.value, left, right, factor: factor.value, frame: slider.value});
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    play.textContent = 'play';
    words.setAttribute('aria-live', 'polite');
  }

  play.onclick = () => {
    if (timer !== null) {
      pause();
      draw();
      return remember();
    }
    play.textContent = 'pause';
    words.setAttribute('aria-live', 'off');  // nobody wants every frame read out
    timer = setInterval(() => {
      slider.value = +slider.value % +slider.max + 1;
      draw();
    }, 1000 / view.rate);
  };
  slider.oninput = () => {
    pause();
    draw();
  };
  slider.onchange = remember;
  slider.onpointerdown = pause;
  slider.onkeydown = event => event.key != 'Tab' && pause();
  for (const select of box.querySelectorAll('select')) select.onchange = () => {
    draw();
    remember();
  };

  function arrive() {
    const [film, left, right, only, frame] = ['film', 'left', 'right', 'factor', 'frame'].map(key => state.get(key));
    if (!Object.hasOwn(view.films, film) || ![left, right].every(way => view.ways.includes(way))) return false;
    pause();
    choice.value = film;
    [sides[0].way.value, sides[1].way.value] = [left, right];
    factor.value = /^\d$/.test(only) && +only <= view.factors ? only : '0';
    slider.max = view.films[film].frames.length;
    slider.value = /^\d{1,4}$/.test(frame) ? frame : '1';
    draw();
    box.scrollIntoView();
    return true;
  }

  sides[1].way.value = view.ways[1];
  state.onarrival(arrive);
  if (!arrive()) draw();
})();
