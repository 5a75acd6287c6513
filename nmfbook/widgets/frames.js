const box = this.closest('.nmf-frames');
box.querySelectorAll('figure').forEach((frame, i) => { frame.hidden = i != this.value; });
box.querySelector('output').value = box.querySelectorAll('figure')[this.value].dataset.label;
this.setAttribute('aria-valuetext', box.querySelector('output').value);
