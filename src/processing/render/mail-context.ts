import { Context, Expression, type Token, TypeGuards } from 'liquidjs'

type Settings = ConstructorParameters<typeof Context>
type Scope = Parameters<Context['readProperty']>[0]
type Path = Parameters<Context['_get']>[0]
type Step = string | number
type Values = Generator<unknown, unknown, unknown>

/** More than a person wants to read, and far more than one mistake causes. */
const MAX_MISSING = 50
const MAX_NAME_CHARS = 100
const MAX_STEPS = 20

/**
 * Names of variables that were wanted and not given, each once. What only asks whether a variable is there does not
 * count: the conditions of `if`, `elsif`, `unless` and `case`, and what `default` stands behind.
 */
export class MissingVariables {
  readonly #names = new Set<string>()

  get names(): string[] {
    return [...this.#names]
  }

  add(path: readonly unknown[]): void {
    if (this.#names.size >= MAX_MISSING) return
    const steps = path.slice(0, MAX_STEPS).map((step) => String(step).slice(0, MAX_NAME_CHARS))
    this.#names.add(steps.join('.').slice(0, MAX_NAME_CHARS).toWellFormed())
  }
}

/** The engine's context, which also notes each variable that is read and is not there; null counts as given. */
export class MailContext extends Context {
  readonly #settings: Settings
  readonly #missing: MissingVariables | undefined
  /** Greater than 0 while an expression is evaluated that only asks. */
  asking = 0

  /** Without `missing`, nobody wants to know. */
  constructor(missing: MissingVariables | undefined, ...settings: Settings) {
    super(...settings)
    this.#missing = missing
    this.#settings = settings
  }

  override _get(path: Path): IterableIterator<unknown> {
    const value = super._get(path)
    return this.#missing === undefined ? value : this.#noted(path, value, this.#missing)
  }

  *#noted(path: Path, reading: unknown, missing: MissingVariables): Values {
    const value: unknown = yield reading
    if (value === undefined && this.asking === 0) missing.add(path)
    return value
  }

  /** What `_get` comes to. `asks`: a variable that is not there is not missing. */
  valueAt(path: readonly Step[], asks: boolean): unknown {
    const { findScope } = this as unknown as { findScope(this: Context, name: unknown): Scope }
    let value: unknown = findScope.call(this, path[0])
    for (const step of path) value = this.readProperty(value as Scope, step)
    if (value === undefined && !asks && this.asking === 0) this.#missing?.add(path)
    return value
  }

  /** For a partial: it sees nothing but what it is given, and shares the meters. */
  override spawn(scope: object = {}): MailContext {
    const [, options, rendering, shared] = this.#settings
    return new MailContext(this.#missing, scope, options, rendering, shared)
  }
}

let evaluateChanged = false

/**
 * Tells a MailContext when an expression only asks. The engine knows (it says `lenient`), but acts on it by throwing
 * at the first variable that is missing, and we want them all. And reads what is only a path, such as `order.total`, without
 * the dozen generators that the engine makes for it: most of what a mail shows is one. The engine has one class of
 * expressions for all; it is changed at most once in a thread.
 */
export function adaptExpressions(): void {
  if (evaluateChanged) return
  evaluateChanged = true
  const evaluate = Expression.prototype.evaluate
  Expression.prototype.evaluate = function (this: Expression, context: Context, lenient?: boolean): Values {
    if (!(context instanceof MailContext)) return evaluate.call(this, context, lenient)
    const path = pathOf(this)
    // Whoever evaluates waits for a value, and takes one that is there already.
    if (path !== null) return context.valueAt(path, lenient === true) as Values
    const values = evaluate.call(this, context, lenient)
    return lenient === true ? asking(context, values) : values
  }
}

const paths = new WeakMap<Expression, readonly Step[] | null>()

/** The steps of an expression that is nothing but a path of names and numbers; null of any other. */
function pathOf(expression: Expression): readonly Step[] | null {
  let path = paths.get(expression)
  if (path === undefined) {
    path = readPath(expression)
    paths.set(expression, path)
  }
  return path
}

function readPath(expression: Expression): readonly Step[] | null {
  const { postfix } = expression as unknown as { readonly postfix: readonly Token[] }
  const [token, ...others] = postfix
  if (token === undefined || others.length > 0 || !TypeGuards.isPropertyAccessToken(token)) return null
  if (token.variable !== undefined) return null
  const steps = token.props.map((prop) => ('content' in prop ? prop.content : undefined))
  const isStep = (step: unknown) => typeof step === 'string' || typeof step === 'number'
  return steps.every(isStep) ? (steps as Step[]) : null
}

function* asking(context: MailContext, values: Values): Values {
  context.asking += 1
  try {
    return yield* values
  } finally {
    context.asking -= 1
  }
}
