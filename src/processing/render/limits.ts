/** Every bound on rendering, in one place. Lengths are in UTF-16 units, which is what a JavaScript string counts. */

/** Rendered parts. 998 is the longest line RFC 5322 §2.1.1 allows, and a subject is one line before folding. */
export const MAX_OUTPUT_CHARS = { subject: 998, html: 1_000_000, text: 256_000 } as const

/** One message's variables as JSON. */
export const MAX_VARIABLES_CHARS = 256 * 1024

/** One part of a source: several times the 102 KB at which large mailbox providers clip a mail. */
export const MAX_PART_CHARS = 512 * 1024

/** All parts, those of partials included: more would not fit into a thread beside others. */
export const MAX_SOURCE_CHARS = 2 * 1024 * 1024

/** Liquid between its delimiters, over all parts. Dense markup compiles to about 150 bytes a character. */
export const MAX_MARKUP_CHARS = 64 * 1024

/** What a thread keeps compiled: at most about 24 MB of syntax trees and 8 MB of text in the densest case. */
export const KEPT_TEMPLATES = 500
export const KEPT_MARKUP_CHARS = 160 * 1024
export const KEPT_SOURCE_CHARS = 4 * 1024 * 1024

/**
 * The longest value a template may make: characters of a string, or of an array written out. It bounds every single
 * allocation, and must: V8 lets a thread that reaches its heap limit die alone only if it gets there in small steps;
 * one allocation of tens of megabytes aborts the whole process. Above MAX_VARIABLES_CHARS, as data are values too.
 */
export const MAX_VALUE_CHARS = 300_000

/** All that the operations of one part may allocate together, in characters and array elements. */
export const MAX_WORK_UNITS = 2_000_000

/** The ends of a range `(1..n)`. Past 2^53 adding 1 to a number changes nothing and the engine's loop never ends. */
export const MAX_RANGE_END = 1_000_000_000

/** A date format costs time in the square of its length. */
export const MAX_DATE_FORMAT_CHARS = 64

/** Of the thread's own work. Liquid checks this between tags; it catches the common loop without losing the thread. */
export const SOFT_STOP_MS = 250

/** Before a message is given up as one that does not end: enough for one that waits for a core again and again. */
export const SUSPECT_STOP_MS = 2_000

/**
 * How long the thread of suspects is kept without work: longer than between two looks at a draft in quick succession. It holds a heap
 * of its own; to start another one takes 100 ms, on a crowded machine more.
 */
export const SUSPECT_KEPT_MS = 15_000

/** One post to a thread carries at most this much of variables, so that a batch cannot fill its heap. */
export const MAX_POST_CHARS = 1_000_000

/** A thread's heap. Far above what the limits above let a message use, far below what the process can spare. */
export const THREAD_HEAP_MB = 96
export const THREAD_NURSERY_MB = 4

/** A reason is read by people and stored with the message. */
export const MAX_REASON_CHARS = 400

/** A reason that is a list of names may be longer. */
export const MAX_LIST_CHARS = 1_800

/** A text part is only made of HTML up to this: five times what large mailbox providers show of a mail. */
export const MAX_DERIVED_FROM_CHARS = 512 * 1024
