import type { Liquid, Template } from 'liquidjs'
import type { TemplatePartial } from '../../templates/template-content.ts'
import type { TemplateSource } from './contract.ts'
import { RenderStop } from './meters.ts'
import { withPlainBraces } from './plain-braces.ts'

export type BodyPart = 'html' | 'text'

/** An engine that knows the partials of one template; its parser hands it to every tag it makes. */
type EngineWithPartials = Liquid & { readonly partials: Partials }

export function withPartials(engine: Liquid, source: TemplateSource, part: BodyPart): EngineWithPartials {
  const own = Object.create(engine) as Liquid
  return Object.assign(own, { partials: new Partials(own, source.partials, part) })
}

export function partialsOf(engine: Liquid): Partials {
  return (engine as EngineWithPartials).partials
}

/**
 * What `render` and `layout` may name, each parsed once for a template and a part: HTML takes the HTML of a partial,
 * subject and text take its text.
 */
class Partials {
  readonly #engine: Liquid
  readonly #sources: ReadonlyMap<string, TemplatePartial> | 'unchecked'
  readonly #part: BodyPart
  readonly #parsed = new Map<string, Template[]>()
  readonly #open = new Set<string>()

  constructor(engine: Liquid, partials: TemplateSource['partials'] = [], part: BodyPart) {
    this.#engine = engine
    this.#part = part
    this.#sources = partials === 'unchecked' ? partials : new Map(partials.map((each) => [each.name, each]))
  }

  find(name: string): Template[] {
    if (this.#sources === 'unchecked') return []
    const known = this.#parsed.get(name)
    if (known !== undefined) return known
    const source = this.#sources.get(name)?.[this.#part]
    if (source === undefined) throw missing(`no template named "${name}" is published`)
    if (source === null) throw missing(`the template "${name}" has no ${this.#part}`)
    // Publishing refuses a cycle; by SQL one may be made.
    if (this.#open.has(name)) throw missing(`the template "${name}" uses itself`)
    this.#open.add(name)
    const templates = this.#engine.parse(withPlainBraces(source), name)
    this.#open.delete(name)
    this.#parsed.set(name, templates)
    return templates
  }
}

function missing(reason: string): RenderStop {
  return new RenderStop('template_partial_missing', reason)
}
