(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('scrub');
  const [choice, factor, play, slider, words] = ['[data-of=film]', '[data-of=factor]', 'button', '[type=range]', 'p']
    .map(name => box.querySelector(name));
  const sides = [...box.querySelectorAll('.side')].map(side => ({way: side.querySelector('select'),
    canvas: side.querySelector('canvas'), bars: side.querySelector('svg')}));
  const palette = view.colors.map(color => [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16) / 255));
  const first = Object.keys(view.films)[0];
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

  function heatmaps({maps}, way, frame) {  // of a frame; those of all are decoded once
    const {size: [height, width]} = maps[way], area = view.factors * width * height;
    maps[way].decoded ??= Float64Array.from(atob(maps[way].values), c => c.charCodeAt(0) / 255);
    return {values: maps[way].decoded.subarray(frame * area, (frame + 1) * area), width, height};
  }

  const told = value => value === null ? 'none' : value.toFixed(2);

  async function draw() {
    const turn = ++asked, name = choice.value, film = view.films[name], count = film.frames.length;
    slider.max = count;
    const frame = +slider.value - 1, only = +factor.value, frames = await decoded(name);
    const factors = only ? [only - 1] : [...palette.keys()];
    if (turn != asked) return;  // the reader has gone on meanwhile
    slider.setAttribute('aria-valuetext', `frame ${frame + 1} of ${count}`);
    for (const {way: {value: way}, canvas, bars} of sides) {
      const picture = nmfOverlaid(frames[frame], heatmaps(film, way, frame), factors, palette);
      const scores = film.scores[way];
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
