import {
  type Context,
  type Emitter,
  evalToken,
  Hash,
  type Liquid,
  type Parser,
  Tag,
  type TagToken,
  type Template,
  type Tokenizer,
  type TopLevelToken,
  TypeGuards,
  toValue,
  type ValueToken,
} from 'liquidjs'
import { MAX_OUTPUT_CHARS } from './limits.ts'
import { CappedEmitter, RenderStop } from './meters.ts'
import { partialsOf } from './partials.ts'

/**
 * `render`, `layout` and `block`, our own: the engine's look their files up while they render and collect output
 * without a bound. Here a name stands in the source as it is, and what it means is parsed with the template.
 */
export function registerPartialTags(engine: Liquid): void {
  engine.registerTag('render', RenderTag)
  engine.registerTag('layout', LayoutTag)
  engine.registerTag('block', BlockTag)
}

type Rendering = Generator<unknown, void, unknown>
type Binding = {
  readonly kind: 'with' | 'for'
  readonly value: ValueToken
  readonly alias: string | undefined
}

/** `{% render 'name', key: value %}`, also `with value as alias` or `for list as alias`. It sees only these. */
class RenderTag extends Tag {
  readonly #name: string
  readonly #templates: Template[]
  readonly #binding: Binding | undefined
  readonly #args: Hash

  constructor(token: TagToken, remaining: TopLevelToken[], liquid: Liquid) {
    super(token, remaining, liquid)
    this.#name = literalName(token, this.tokenizer)
    this.#templates = partialsOf(liquid).find(this.#name)
    this.#binding = readBinding(this.tokenizer)
    this.#args = new Hash(this.tokenizer, liquid.options.keyValueSeparator)
  }

  *render(context: Context, emitter: Emitter): Rendering {
    const inner = context.spawn()
    const scope = inner.bottom() as Record<string, unknown>
    Object.assign(scope, yield this.#args.render(context))
    if (this.#binding === undefined) {
      yield this.liquid.renderer.renderTemplates(this.#templates, inner, emitter)
      return
    }
    const { kind, value, alias = this.#name } = this.#binding
    const bound: unknown = toValue(yield evalToken(value, context))
    const items = kind === 'with' ? [bound] : listOf(bound)
    for (const [index, item] of items.entries()) {
      scope[alias] = item
      if (kind === 'for') scope.forloop = loopAt(index, items.length)
      inner.breakCalled = false
      inner.continueCalled = false
      yield this.liquid.renderer.renderTemplates(this.#templates, inner, emitter)
    }
  }
}

/** What a block of this name holds: templates of the one that has the layout, or text written outside its blocks. */
type Blocks = Map<string, Template[] | string>
const BLOCKS = 'blocks'
const OPEN_BLOCKS = 'open blocks'
const COLLECTS = 'collects blocks'
const HAS_UNNAMED = 'has rendered the block without a name'

/**
 * `{% layout 'name' %}`: the rest of this template fills the blocks of that one. What stands outside its blocks fills
 * the block without a name.
 */
class LayoutTag extends Tag {
  readonly #name: string
  readonly #layout: Template[]
  readonly #args: Hash
  readonly #content: Template[]

  constructor(token: TagToken, remaining: TopLevelToken[], liquid: Liquid, parser: Parser) {
    super(token, remaining, liquid)
    this.#name = literalName(token, this.tokenizer)
    this.#layout = partialsOf(liquid).find(this.#name)
    this.#args = new Hash(this.tokenizer, liquid.options.keyValueSeparator)
    this.#content = parser.parseTokens(remaining)
  }

  *render(context: Context, emitter: Emitter): Rendering {
    const { renderer } = this.liquid
    const outside = new CappedEmitter(MAX_OUTPUT_CHARS.html)
    context.setRegister(COLLECTS, true)
    yield renderer.renderTemplates(this.#content, context, outside)
    fillBlock(context, '', outside.buffer)
    context.setRegister(COLLECTS, false)
    context.push(Object.assign(Object.create(null), yield this.#args.render(context)))
    yield renderer.renderTemplates(this.#layout, context, emitter)
    context.pop()
    // Better no mail than one without what it was to say.
    if (outside.buffer.trim() === '' || context.getRegister(HAS_UNNAMED, false)) return
    throw new RenderStop(
      'template_failed',
      `what stands outside of blocks has no place in the layout "${this.#name}"; put {% block %}{% endblock %} there`,
    )
  }
}

/** `{% block name %}…{% endblock %}`: in a layout, a place with what it holds unless the template fills it. */
class BlockTag extends Tag {
  readonly #name: string
  readonly #own: Template[] = []

  constructor(token: TagToken, remaining: TopLevelToken[], liquid: Liquid, parser: Parser) {
    super(token, remaining, liquid)
    this.#name = token.args.trim()
    if (!/^[\w-]*$/.test(this.#name)) throw new Error('the name of a block is one word, without quotes')
    const stream = parser.parseStream(remaining)
    stream
      .on('tag:endblock', () => stream.stop())
      .on('template', (template: Template) => this.#own.push(template))
      .on('end', () => {
        throw new Error(`tag ${token.getText()} not closed`)
      })
      .start()
  }

  *render(context: Context, emitter: Emitter): Rendering {
    if (context.getRegister(COLLECTS, false)) {
      fillBlock(context, this.#name, this.#own)
      return
    }
    if (this.#name === '') context.setRegister(HAS_UNNAMED, true)
    // A block that is filled with itself, or two with each other, would never end.
    const open = context.getRegister(OPEN_BLOCKS, new Set<string>())
    if (open.has(this.#name)) throw new Error(`the block "${this.#name}" stands inside itself`)
    const filling = blocksOf(context).get(this.#name) ?? this.#own
    if (typeof filling === 'string') {
      emitter.write(filling)
      return
    }
    open.add(this.#name)
    yield this.liquid.renderer.renderTemplates(filling, context, emitter)
    open.delete(this.#name)
  }
}

/** The first wins: a layout that has a layout of its own fills only what the template left open. */
function fillBlock(context: Context, name: string, filling: Template[] | string): void {
  const blocks = blocksOf(context)
  if (!blocks.has(name)) blocks.set(name, filling)
}

function blocksOf(context: Context): Blocks {
  return context.getRegister<Blocks>(BLOCKS, new Map())
}

/** Only a plain name in quotes can be found without rendering, by us and by `mail.template_uses` alike. */
function literalName(token: TagToken, tokenizer: Tokenizer): string {
  if (!token.getText().startsWith('{%')) {
    throw new Error(`write "${token.name}" as a tag of its own, not inside a "liquid" tag`)
  }
  const value = tokenizer.readValue()
  const name = TypeGuards.isQuotedToken(value) ? value.content : ''
  if (name === '' || value?.getText().slice(1, -1) !== name || /['"\\]|\{[{%]/.test(name)) {
    throw new Error(
      `"${token.name}" takes the name of a template in quotes, as in {% ${token.name} 'name' %}`,
    )
  }
  return name
}

function readBinding(tokenizer: Tokenizer): Binding | undefined {
  tokenizer.skipBlank()
  const start = tokenizer.p
  const { content: kind } = tokenizer.readIdentifier()
  tokenizer.skipBlank()
  // `with: 1` and `for: 1` are arguments like any other.
  const value =
    (kind === 'with' || kind === 'for') && tokenizer.peek() !== ':' ? tokenizer.readValue() : undefined
  if (value === undefined || (kind !== 'with' && kind !== 'for')) {
    tokenizer.p = start
    return undefined
  }
  const afterValue = tokenizer.p
  const hasAlias = tokenizer.readIdentifier().content === 'as'
  if (!hasAlias) tokenizer.p = afterValue
  const alias = hasAlias ? tokenizer.readIdentifier().content : undefined
  return { kind, value, alias: alias === '' ? undefined : alias }
}

function listOf(value: unknown): readonly unknown[] {
  if (value === undefined || value === null) return []
  return Array.isArray(value) ? value : [value]
}

function loopAt(index0: number, length: number): object {
  const rindex0 = length - index0 - 1
  return {
    ...{ index0, index: index0 + 1, rindex0, rindex: rindex0 + 1 },
    ...{ length, first: index0 === 0, last: rindex0 === 0 },
  }
}
