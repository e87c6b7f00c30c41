/**
 * Windows on a picture, in its whole pixels: {x, y, width, height}. Pure arithmetic.
 * @typedef {{x: number, y: number, width: number, height: number}} Window
 */

const LEAST_SIDE = 8;

/** As Python rounds, which reads the same text: halves to the even number. */
function rounded(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

/** 'x, y, width, height' -> Window; null for any other text. @returns {Window | null} */
export function parsed(text) {
  const parts = String(text ?? "")
    .replaceAll(",", " ")
    .trim()
    .split(/\s+/);
  if (parts.length !== 4) return null;
  const [x, y, width, height] = parts.map((part) => rounded(Number(part)));
  return [x, y, width, height].every(Number.isFinite) ? { x, y, width, height } : null;
}

/** Window -> 'x, y, width, height', whole pixels. */
export function written({ x, y, width, height }) {
  return [x, y, width, height].map(Math.round).join(", ");
}

/** The part of a window on a picture of [width, height]; null where there is none. */
export function onPicture(window, [width, height]) {
  const x = Math.max(window.x, 0);
  const y = Math.max(window.y, 0);
  const right = Math.min(window.x + window.width, width);
  const bottom = Math.min(window.y + window.height, height);
  return right > x && bottom > y ? { x, y, width: right - x, height: bottom - y } : null;
}

/** A window moved by (dx, dy), kept whole on the picture. */
export function moved(window, dx, dy, [width, height]) {
  return {
    ...window,
    x: clamp(Math.round(window.x + dx), 0, width - window.width),
    y: clamp(Math.round(window.y + dy), 0, height - window.height),
  };
}

/**
 * A window with some of its edges moved by (dx, dy). They stop at the picture's edges and before
 * the window gets too small.
 * @param {string} edges any of n, e, s, w: "se" is the lower right corner
 */
export function resized(window, edges, dx, dy, [width, height]) {
  const [left, right] = stretched(
    window.x,
    window.width,
    dx,
    edges.includes("w"),
    edges.includes("e"),
    width,
  );
  const [top, bottom] = stretched(
    window.y,
    window.height,
    dy,
    edges.includes("n"),
    edges.includes("s"),
    height,
  );
  return { x: left, y: top, width: right - left, height: bottom - top };
}

function stretched(start, length, by, first, last, limit) {
  const least = Math.min(LEAST_SIDE, limit);
  let low = start;
  let high = start + length;
  if (first) low = clamp(Math.round(low + by), 0, Math.max(high - least, 0));
  if (last) high = clamp(Math.round(high + by), Math.min(low + least, limit), limit);
  return [low, high];
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), Math.max(low, high));
}
