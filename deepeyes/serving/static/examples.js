// Pictures to try, drawn here, so that none is fetched: what matters in them is too small for a view.
"use strict";

function noise(seed) {
  let state = seed;
  return () => ((state = (state * 1103515245 + 12345) % 2147483648) / 2147483648);
}

function sketch(width, height, draw) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  draw(canvas.getContext("2d"), noise(7));
  return canvas.toDataURL("image/png");
}

function drawStripes(brush, random) {
  brush.fillStyle = "#8a9a8a";
  brush.fillRect(0, 0, 4000, 3000);
  for (let at = 0; at < 60; at++) {
    brush.fillStyle = `hsl(${100 + random() * 60} 15% ${45 + random() * 20}%)`;
    brush.fillRect(random() * 4000, random() * 3000, 200 + random() * 500, 200 + random() * 500);
  }
  brush.fillStyle = "#fff";
  brush.fillRect(2600, 700, 200, 200);
  brush.fillStyle = "#000";
  for (let y = 712; y < 888; y += 4) brush.fillRect(2612, y, 176, 2);
}

function drawStreet(brush, random) {
  brush.fillStyle = "#9fc3dd";
  brush.fillRect(0, 0, 3200, 2000);
  for (let house = 0; house < 8; house++) {
    const top = 300 + random() * 500;
    brush.fillStyle = `hsl(${random() * 60} 35% ${50 + random() * 20}%)`;
    brush.fillRect(house * 400, top, 390, 1500 - top);
    brush.fillStyle = "#37424d";
    for (let y = top + 60; y < 1250; y += 150) {
      for (let x = 40; x < 350; x += 110) brush.fillRect(house * 400 + x, y, 60, 90);
    }
    brush.fillStyle = "#4b2e1e";
    brush.fillRect(house * 400 + 160, 1330, 80, 170);
  }
  brush.fillStyle = "#777";
  brush.fillRect(0, 1500, 3200, 500);
  brush.fillStyle = "#fffbe8";
  brush.fillRect(2256, 1378, 124, 48);
  brush.fillStyle = "#111";
  brush.font = "600 15px sans-serif";
  brush.fillText("BAKERY", 2284, 1397);
  brush.fillText("7:30 \u2013 16:00", 2266, 1418);
}

function drawTiles(brush, random) {
  for (let row = 0; row < 12; row++) {
    for (let column = 0; column < 16; column++) {
      brush.fillStyle = `hsl(210 15% ${80 + random() * 12}%)`;
      brush.fillRect(column * 200, row * 200, 196, 196);
    }
  }
  brush.fillStyle = "#c41f1f";
  for (const [x, y] of [[0, 0], [14, 3], [5, 15], [20, 17], [11, 26]]) {
    brush.beginPath();
    brush.arc(690 + x, 1870 + y, 3, 0, 7);
    brush.fill();
  }
}

const EXAMPLES = [
  {name: {en: "Stripes", zh: "条纹"}, size: [4000, 3000], draw: drawStripes,
    question: {en: "Do the stripes on the small white card stand upright or lie level?", zh: "白色小卡片上的条纹是竖的还是横的？"}},
  {name: {en: "Opening hours", zh: "营业时间"}, size: [3200, 2000], draw: drawStreet,
    question: {en: "When does the bakery close?", zh: "这家面包店几点关门？"}},
  {name: {en: "Dots", zh: "圆点"}, size: [3200, 2400], draw: drawTiles,
    question: {en: "How many red dots are there on the tiles?", zh: "瓷砖上有几个红点？"}},
];
