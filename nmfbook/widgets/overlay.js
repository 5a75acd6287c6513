// What view.py has encoded, as numbers in [0, 1].
function nmfDecoded(text) {
  return Float64Array.from(new Uint16Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer), x => x / 65535);
}

// Map k of {values, width, height}, maps in turn, by bilinear interpolation; pixels are squares around their centres.
function nmfEnlarged({values, width, height}, columns, rows, k = 0) {
  const large = new Float64Array(columns * rows), from = k * width * height;
  const places = (count, size) => Array.from({length: count}, (_, i) => {
    const at = Math.max(0, (i + 0.5) * size / count - 0.5), low = Math.min(Math.floor(at), size - 1);
    return [low, Math.min(low + 1, size - 1), at - low];
  });
  const across = places(columns, width);
  places(rows, height).forEach(([top, bottom, down], y) => {
    const upper = from + top * width, lower = from + bottom * width;
    for (let x = 0; x < columns; x++) {
      const [left, right, along] = across[x];
      large[y * columns + x] = (1 - down) * ((1 - along) * values[upper + left] + along * values[upper + right])
        + down * ((1 - along) * values[lower + left] + along * values[lower + right]);
    }
  });
  return large;
}

// As nmfcore.heatmaps.overlay: a picture in grey under some factors of enlarged maps. palette: RGB in [0, 1] of each.
function nmfOverlaid({data, width, height}, maps, factors, palette, strength = 0.85) {
  const out = new ImageData(width, height), heat = factors.map(k => nmfEnlarged(maps, width, height, k));
  for (let p = 0, i = 0; p < width * height; p++, i += 4) {
    let squares = 0, most = 0;
    for (const map of heat) {
      squares += map[p] * map[p];
      most = Math.max(most, map[p]);
    }
    const grey = (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) / 255;
    const opacity = strength * Math.sqrt(Math.min(1, most));
    for (let c = 0; c < 3; c++) {
      let hue = 0;
      for (let j = 0; j < heat.length; j++) hue += heat[j][p] * heat[j][p] * palette[factors[j]][c];
      hue /= Math.max(squares, 1e-6);
      out.data[i + c] = 255 * ((0.12 + 0.88 * grey) * (1 - opacity) + hue * (0.7 + 0.3 * grey) * opacity);
    }
    out.data[i + 3] = 255;
  }
  return out;
}
