(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('wipe');
  const [choice, stage, before, after, divider, slider, beside, words] = ['select', '.stage', '.before', '.after',
    '.stage i', '[type=range]', '.beside', 'p'].map(name => box.querySelector(name));
  const results = [...box.querySelectorAll('.results button')], [left, right] = stage.querySelectorAll('span');
  const first = Object.keys(view.pictures)[0], MIDDLE = 50;
  let result = view.start;

  function divide() {
    const at = +slider.value;
    after.style.clipPath = `inset(0 0 0 ${at}%)`;
    divider.style.left = `${at}%`;
    left.style.opacity = at < 15 ? 0 : 1;
    right.style.opacity = at > 85 ? 0 : 1;
    slider.setAttribute('aria-valuetext', `${at}\u00a0% ${view.before}, ${100 - at}\u00a0% ${result}`);
  }

  function draw() {
    const name = choice.value, picture = view.pictures[name];
    before.src = picture.before;
    before.alt = `${name}, ${view.before}`;
    after.src = picture.after[result];
    after.alt = `${name}, ${result}`;
    left.textContent = view.before;
    right.textContent = result;
    for (const button of results) button.setAttribute('aria-pressed', button.value == result);
    beside.replaceChildren(...Object.entries(picture.beside).map(([title, source]) => {
      const figure = document.createElement('div'), image = new Image(), label = document.createElement('span');
      Object.assign(image, {src: source, alt: `${name}: ${title}`});
      label.textContent = title;
      figure.append(image, label);
      return figure;
    }));
    words.textContent = `${name}, ${result}${picture.told[result] ? `: ${picture.told[result]}` : '.'}`;
    divide();
  }

  function remember() {
    const [name, at] = [choice.value, +slider.value];
    const untouched = name == first && result == view.start && at == MIDDLE;
    state.set(untouched ? {picture: null, result: null, at: null} : {picture: name, result, at});
  }

  function arrive() {
    const [name, wanted, at] = ['picture', 'result', 'at'].map(key => state.get(key));
    if (!Object.hasOwn(view.pictures, name) || !Object.hasOwn(view.pictures[name].after, wanted)) return false;
    choice.value = name;
    result = wanted;
    slider.value = /^\d{1,3}$/.test(at) ? at : MIDDLE;
    draw();
    box.scrollIntoView();
    return true;
  }

  const follow = event => {
    const {left, width} = stage.getBoundingClientRect();
    slider.value = Math.round(100 * (event.clientX - left) / width);
    divide();
  };
  stage.onpointerdown = event => {
    if (event.button) return;
    stage.setPointerCapture(event.pointerId);
    follow(event);
  };
  stage.onpointermove = event => stage.hasPointerCapture(event.pointerId) && follow(event);
  stage.onpointerup = () => {
    slider.focus({preventScroll: true});  // the arrow keys go on from there
    remember();
  };
  slider.oninput = divide;
  slider.onchange = remember;
  choice.onchange = () => {
    draw();
    remember();
  };
  for (const button of results) button.onclick = () => {
    result = button.value;
    draw();
    remember();
  };
  state.onarrival(arrive);
  if (!arrive()) draw();
})();
