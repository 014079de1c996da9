// How the page shows names, times and links.

const LINK = /\bhttps?:\/\/[^\s<>"]+/g;
const DAY = 24 * 60 * 60 * 1000; // ms

/** Gives an element the avatar of a user: initials, in a color that depends on the name. */
export function showAvatar(element, user) {
  const words = user.trim().split(/\s+/);
  const initials = (words.length > 1 ? [words[0], words.at(-1)] : words).map((word) => [...word][0] ?? "");
  element.dataset.initials = initials.join("").toUpperCase();
  let hash = 0;
  for (const char of user) hash = (31 * hash + char.codePointAt(0)) % 65521;
  element.style.setProperty("--hue", (107 * hash) % 360); // similar names get different colors
}

/** Shows a text with its links. */
export function showText(element, text) {
  element.replaceChildren();
  let at = 0;
  for (const { 0: match, index } of text.matchAll(LINK)) {
    const href = linkOf(match);
    if (!href) continue;
    const link = document.createElement("a");
    link.href = link.textContent = href;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    element.append(text.slice(at, index), link);
    at = index + href.length;
  }
  element.append(text.slice(at));
}

/** Returns a link without the punctuation of the sentence that it ends, or "". */
function linkOf(text) {
  let link = text.replace(/[.,:;!?'*_]+$/, "");
  if (link.endsWith(")") && !link.includes("(")) link = link.slice(0, -1);
  return URL.canParse(link) ? link : "";
}

export function timeOf(at) {
  return at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export function dayOf(at) {
  const now = Date.now();
  if (at.toDateString() === new Date(now).toDateString()) return "Today";
  if (at.toDateString() === new Date(now - DAY).toDateString()) return "Yesterday";
  return at.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
}

/** Returns "1 person", "2 people", … */
export function people(n) {
  return n === 1 ? "1 person" : `${n} people`;
}
