/** A variable that a template declares, as Resend has it. No fallback: the message has to give it. */
export type DeclaredVariable = {
  readonly key: string
  readonly type: 'string' | 'number'
  readonly fallback_value?: string | number | null
}

/** What a version of a template holds. */
export type TemplateContent = {
  readonly subject: string | null
  readonly html: string | null
  readonly text: string | null
  /** For messages that name none: `a@b.c` or `Name <a@b.c>`. */
  readonly sender: string | null
  readonly reply_to: readonly string[] | null
  readonly variables: readonly DeclaredVariable[]
  readonly is_strict: boolean
}

/** A template as another one uses it, by its name. */
export type TemplatePartial = {
  readonly name: string
  readonly html: string | null
  readonly text: string | null
}
