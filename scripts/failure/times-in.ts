/** How often a text, such as what a process wrote, has these words. */
export function timesIn(text: string, words: string): number {
  return text.split(words).length - 1
}
