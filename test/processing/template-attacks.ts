/** What hostile templates and hostile data may try, and what must come of it. */
import type { RenderFailureCode } from '../../src/processing/render/contract.ts'

const big = 'x'.repeat(250_000)
/** An array nested 16 times, each level holding the one below twice: as large as a value may be. */
const nested = `{% assign e = "" | split: "," %}{% assign a = e %}${'{% assign a = e | push: a | push: a %}'.repeat(16)}`

export type Attack = {
  readonly html: string
  readonly variables?: Record<string, unknown>
  /** HTML of other templates by their names. */
  readonly partials?: Readonly<Record<string, string>>
  readonly ends: Ending
}
/** What must come out: a code, a text, or `any` where only the bounds matter. */
type Ending = RenderFailureCode | { readonly html: string } | 'any'

export const ATTACKS: Readonly<Record<string, Attack>> = {
  'capture doubling': {
    html: `{% assign a = "x" %}${'{% capture a %}{{a}}{{a}}{% endcapture %}'.repeat(25)}{{ a }}`,
    ends: 'template_syntax',
  },
  'append doubling': {
    html: `{% assign a = "x" %}${'{% assign a = a | append: a %}'.repeat(40)}{{ a }}`,
    ends: 'template_memory',
  },
  'prepend doubling': {
    html: `{% assign a = "x" %}${'{% assign a = a | prepend: a %}'.repeat(40)}{{ a }}`,
    ends: 'template_memory',
  },
  'concat doubling': {
    html: `{% assign a = "x" | split: "," %}${'{% assign a = a | concat: a %}'.repeat(40)}{{ a }}`,
    ends: 'template_memory',
  },
  'many references to one large string': {
    html: `{% assign a = "" | split: "," | push: b %}${'{% assign a = a | concat: a %}'.repeat(11)}{{ a }}`,
    variables: { b: big },
    ends: 'template_memory',
  },
  'arrays nested by powers of two': {
    html: `{% assign a = "x" | split: "," %}${'{% assign a = a | push: a | push: a %}'.repeat(60)}{{ a }}`,
    ends: 'template_memory',
  },
  'replace growth': {
    html: `{% assign a = "xx" %}${'{% assign a = a | replace: "x", "xxxxxxxx" %}'.repeat(12)}{{ a }}`,
    ends: 'template_memory',
  },
  'split into characters': {
    html: '{{ b | split: "" | join: b }}',
    variables: { b: big },
    ends: 'template_memory',
  },
  'url_encode growth': {
    html: `{% assign a = b %}${'{% assign a = a | url_encode %}'.repeat(30)}{{ a }}`,
    variables: { b: '%'.repeat(100_000) },
    ends: 'template_memory',
  },
  'json of one object many times': {
    html: `{% assign a = b | split: "," | push: o %}${'{% assign a = a | concat: a %}'.repeat(10)}{{ a | json }}`,
    variables: { b: '', o: { [big]: 1 } },
    ends: 'template_memory',
  },
  'json indentation': { html: '{{ a | json: 1000000 }}', variables: { a: [1] }, ends: { html: '[1]' } },
  'a huge range': { html: '{% for i in (1..999999999) %}{% endfor %}', ends: 'template_memory' },
  'a range written out': { html: '{{ (1..299999) }}', ends: 'any' },
  'a range from data': {
    html: '{% for i in (1..n) %}{% endfor %}',
    variables: { n: '1e300' },
    ends: 'template_memory',
  },
  'a range where adding 1 changes nothing': {
    html: '{% for i in (9007199254740992..9007199254740994) %}{% endfor %}',
    ends: 'template_memory',
  },
  'the same range from data': {
    html: '{% for i in (a..b) %}{% endfor %}',
    variables: { a: 9007199254740992, b: '9007199254740994' },
    ends: 'template_memory',
  },
  'the same range in a property path': {
    html: '{{ a | where: b }}',
    variables: { a: [{ c: 1 }], b: 'c[(9007199254740992..9007199254740994)]' },
    ends: 'template_failed',
  },
  'nested empty loops': {
    html: `${'{% for i in (1..9999) %}'.repeat(4)}${'{% endfor %}'.repeat(4)}`,
    ends: 'template_timeout',
  },
  'a loop that writes': {
    html: '{% for i in (1..299999) %}{{ b }}{% endfor %}',
    variables: { b: big },
    ends: 'output_too_large',
  },
  'deep nesting of tags': {
    html: `${'{% if true %}'.repeat(2_400)}x${'{% endif %}'.repeat(2_400)}`,
    ends: 'any',
  },
  'deep nesting of data': { html: '{{ a }}{{ a | json }}', variables: { a: nest(3_000) }, ends: 'any' },
  'a wide date': { html: '{{ "now" | date: "%9999999d" }}', ends: 'template_memory' },
  'wide nanoseconds': { html: '{{ "now" | date: "%999999999N" }}', ends: 'template_memory' },
  'a long date format': {
    html: '{{ "now" | date: f }}',
    variables: { f: '%d'.repeat(100_000) },
    ends: 'template_failed',
  },
  where_exp: { html: '{{ a | where_exp: "x", "x" }}', variables: { a: [1] }, ends: 'template_syntax' },
  'strip_html with openers only': {
    html: '{{ b | strip_html }}',
    variables: { b: '<!--'.repeat(60_000) },
    ends: 'any',
  },
  'squish of blanks': {
    html: '[{{ b | squish }}]',
    variables: { b: ' '.repeat(250_000) },
    ends: { html: '[]' },
  },
  'sort of a large range': { html: '{{ (1..250000) | sort | sort_natural | size }}', ends: 'any' },
  'sort of objects with hostile keys': {
    html: '{{ a | sort: "__proto__" | sort: "valueOf" | map: "constructor" | json }}',
    variables: { a: [{ valueOf: 1 }, JSON.parse('{"__proto__":2}'), { toString: 3, constructor: 4 }] },
    ends: 'any',
  },
  'sort of arrays compared as text': { html: `${nested}{{ (1..9) | concat: a | sort | size }}`, ends: 'any' },
  'equal arrays compared again and again': {
    html: `${nested}{% if ${'a == a and '.repeat(400)}true %}{% endif %}`,
    ends: 'template_timeout',
  },
  'an object that cannot become text': {
    html: '{{ a }}',
    variables: { a: { toString: 1, valueOf: 2 } },
    ends: 'template_failed',
  },
  'reading prototypes': {
    html: '{{ a.constructor }}{{ a.__proto__ }}{{ a["prototype"] }}{{ "x".constructor }}{{ b.map }}{{ a.toString }}{{ constructor }}{{ __proto__ }}',
    variables: { a: {}, b: [] },
    ends: { html: '' },
  },
  'prototypes as filters': { html: '{{ "x" | valueOf }}', ends: 'template_syntax' },
  'reading through the loop object': {
    html: '{% for i in (1..1) %}{{ forloop.__proto__.__proto__.__proto__.constructor }}{% endfor %}',
    ends: { html: '' },
  },
  'calling the constructor of the loop object': {
    html: '{% for i in (1..1) %}{{ forloop.constructor }}{% endfor %}',
    ends: 'template_failed',
  },
  'assigning to a prototype': {
    html: '{% assign __proto__ = a %}{{ polluted }}{{ "".polluted }}',
    variables: { a: { polluted: 'yes' } },
    ends: { html: '' },
  },
  'including a file': { html: '{% include "/etc/passwd" %}', ends: 'template_syntax' },
  'rendering a file': { html: '{% render "/etc/passwd" %}', ends: 'template_partial_missing' },
  'a file as layout': { html: '{% layout "../../etc/passwd" %}', ends: 'template_partial_missing' },
  'a name from the variables': {
    html: '{% render a %}',
    variables: { a: 'b' },
    partials: { b: 'x' },
    ends: 'template_syntax',
  },
  'a name made of a variable': {
    html: '{% render "{{ a }}" %}',
    variables: { a: 'b' },
    partials: { b: 'x' },
    ends: 'template_syntax',
  },
  'a name that belongs to every object': {
    html: '{% render "__proto__" %}{% render "constructor" %}',
    ends: 'template_partial_missing',
  },
  'arguments named like a prototype': {
    html: '{% render "b", __proto__: a, constructor: a %}',
    variables: { a: { polluted: 'yes' } },
    partials: { b: '{{ polluted }}{{ constructor.polluted }}' },
    ends: { html: 'yes' },
  },
  'partials that use each other': {
    html: '{% render "b" %}',
    partials: { b: '{% render "c" %}', c: '{% layout "b" %}' },
    ends: 'template_partial_missing',
  },
  'partials that multiply': {
    html: '{% render "p0" %}',
    partials: Object.fromEntries(
      Array.from({ length: 10 }, (_, n) => [`p${n}`, n === 9 ? '' : `{% render "p${n + 1}" %}`.repeat(100)]),
    ),
    ends: 'template_timeout',
  },
  'partials that multiply output': {
    html: '{% render "p0" %}',
    partials: Object.fromEntries(
      Array.from({ length: 10 }, (_, n) => [
        `p${n}`,
        n === 9 ? 'x'.repeat(1_000) : `{% render "p${n + 1}" %}`.repeat(100),
      ]),
    ),
    ends: 'output_too_large',
  },
  'render for a huge range': {
    html: '{% render "b" for (1..999999999) as n %}',
    partials: { b: '' },
    ends: 'template_memory',
  },
  'render for in render for': {
    html: '{% render "p0" for (1..9999) as n %}',
    partials: {
      p0: '{% render "p1" for (1..9999) as n %}',
      p1: '{% render "p2" for (1..9999) as n %}',
      p2: '',
    },
    ends: 'template_timeout',
  },
  'doubling in partials': {
    html: '{% render "b" for (1..40) as n %}',
    variables: {},
    partials: { b: '{% if a == nil %}{% assign a = "x" %}{% endif %}{% assign a = a | append: a %}' },
    ends: 'template_memory',
  },
  'a loop that writes outside the blocks of its layout': {
    html: '{% layout "b" %}{% for i in (1..299999) %}{{ b }}{% endfor %}',
    variables: { b: big },
    partials: { b: '' },
    ends: 'output_too_large',
  },
  'a block inside itself': {
    html: '{% layout "b" %}{% block x %}{% block x %}{% endblock %}{% endblock %}',
    partials: { b: '{% block x %}{% endblock %}' },
    ends: 'template_failed',
  },
  'two blocks inside each other': {
    html: '{% layout "b" %}{% block x %}{% block y %}{% endblock %}{% endblock %}{% block y %}{% block x %}{% endblock %}{% endblock %}',
    partials: { b: '{% block x %}{% endblock %}' },
    ends: 'template_failed',
  },
  'deep nesting over partials': {
    html: '{% render "p0" %}',
    partials: Object.fromEntries(
      Array.from({ length: 10 }, (_, n) => [
        `p${n}`,
        `${'{% if true %}'.repeat(220)}${n === 9 ? '' : `{% render "p${n + 1}" %}`}${'{% endif %}'.repeat(220)}`,
      ]),
    ),
    ends: 'any',
  },
  'partials with too much Liquid': {
    html: '{% render "a" %}{% render "b" %}',
    partials: { a: '{{ x }}'.repeat(5_000), b: '{{ x }}'.repeat(5_000) },
    ends: 'template_too_large',
  },
  'partials with too much text': {
    html: Array.from({ length: 20 }, (_, n) => `{% render "p${n}" %}`).join(''),
    partials: Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`p${n}`, 'x'.repeat(200_000)])),
    ends: 'template_too_large',
  },
  'thousands of missing variables': {
    html: '{% for i in (1..9999) %}{{ a[i] }}{{ [b] }}{% endfor %}',
    variables: { a: {}, b: big },
    ends: 'any',
  },
  tablerow: { html: '{% tablerow i in (1..999999999) %}{% endtablerow %}', ends: 'template_syntax' },
  'pop of the same array': {
    html: `{% assign a = b %}${'{% assign a = a | concat: a | pop %}'.repeat(40)}{{ a }}`,
    variables: { b: ['x'] },
    ends: 'any',
  },
  'a sample larger than its array': {
    html: '{{ a | concat: a | sample: 999999999 | join: b }}',
    variables: { a: Array.from({ length: 900 }, () => 'x'), b: 'y'.repeat(100_000) },
    ends: 'template_memory',
  },
  'a pattern for text to replace': {
    html: '{{ b | replace: "(a+)+$", "x" | size }}',
    variables: { b: `${'a'.repeat(200_000)}!` },
    ends: { html: '200001' },
  },
  'strip_html with tags that never end': {
    html: '{{ b | strip_html | size }}{{ c | strip_html | size }}',
    variables: { b: '<script'.repeat(18_000), c: '<style><'.repeat(15_000) },
    ends: 'any',
  },
  'an array of as many as data may have': {
    html: '{% for x in a %}{% for y in a %}{{ y }}{% endfor %}{% endfor %}',
    variables: { a: Array.from({ length: 100_000 }, () => 1) },
    ends: 'any',
  },
  'a date of data in a format of data': {
    html: '{{ d | date: f }}',
    variables: { d: '9'.repeat(200_000), f: '%'.repeat(63) },
    ends: 'any',
  },
  'sorting by a path of data': {
    html: '{{ a | where: p, 1 | map: p | uniq | json }}',
    variables: { a: [{ b: 1 }], p: `b${'.b'.repeat(90)}` },
    ends: 'any',
  },
  'including itself': { html: '{% include "attack" %}', ends: 'template_syntax' },
  'a comment of line breaks': { html: `{% # x${'\n'.repeat(60_000)}# %}`, ends: 'template_timeout' },
  'retaining large cycle names': {
    html: '{% for i in (1..4000) %}{% assign g = a | push: i %}{% cycle g: "" %}{% endfor %}',
    variables: { a: ['日'.repeat(250_000)] },
    ends: 'any',
  },
}

function nest(levels: number): unknown {
  let value: unknown = 1
  for (let level = 0; level < levels; level += 1) value = [value]
  return value
}
