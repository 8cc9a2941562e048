/*
 * Keeps the overview as the server sees it: once a second the pieces that changed come as HTML and are laid over what
 * is there, node by node, so that a focus, a selection and an open menu stay where they are.
 */

const PIECES = ['alerts', 'summary', 'picture', 'streams']
const SILENT_AFTER_MS = 10_000
const FIRST_PAUSE_MS = 5_000
const LONGEST_PAUSE_MS = 60_000

const state = document.getElementById('live-state')
let source
let silence
let again
let pauseMs = FIRST_PAUSE_MS

function open() {
  close()
  source = new EventSource('/dashboard/live')
  source.addEventListener('frame', ({ data }) => take(JSON.parse(data)))
  source.addEventListener('full', ({ data }) => say(data))
  source.addEventListener('ended', ({ data }) => {
    close()
    say(data)
  })
  source.addEventListener('error', () => {
    say('Live updates are interrupted; trying again')
    // What the server refuses, the browser does not ask for again by itself.
    if (source.readyState !== EventSource.CLOSED) return
    again = setTimeout(open, pauseMs)
    pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)
  })
}

function close() {
  source?.close()
  clearTimeout(silence)
  clearTimeout(again)
}

function take({ at, problem, pieces }) {
  pauseMs = FIRST_PAUSE_MS
  clearTimeout(silence)
  silence = setTimeout(() => say('Nothing was heard for ten seconds; this may be old'), SILENT_AFTER_MS)
  for (const name of PIECES) {
    if (pieces[name] !== undefined) lay(document.getElementById(name), pieces[name])
  }
  if (pieces.points !== undefined) {
    document.dispatchEvent(new CustomEvent('sluice:points', { detail: JSON.parse(pieces.points) }))
  }
  say(problem ?? `Live, as of ${at.slice(11, 19)}`)
}

function say(words) {
  if (state.textContent !== words) state.textContent = words
}

function lay(element, html) {
  const template = document.createElement('template')
  template.innerHTML = html
  layChildren(element, template.content)
}

function layChildren(old, fresh) {
  const wanted = [...fresh.childNodes]
  for (const [index, node] of wanted.entries()) {
    const present = old.childNodes[index]
    if (present === undefined) old.append(node)
    else if (present.nodeName !== node.nodeName) present.replaceWith(node)
    else if (node.nodeType === Node.ELEMENT_NODE) layElement(present, node)
    else if (present.data !== node.data) present.data = node.data
  }
  while (old.childNodes.length > wanted.length) old.lastChild.remove()
}

function layElement(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name)
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value)
  }
  layChildren(old, fresh)
}

// A page nobody sees would hold one of the few connections that a browser has for a host.
document.addEventListener('visibilitychange', () => (document.hidden ? close() : open()))
addEventListener('pagehide', close)
addEventListener('pageshow', ({ persisted }) => persisted && open())
if (!document.hidden) open()
