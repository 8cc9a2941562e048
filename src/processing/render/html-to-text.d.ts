/** The part of html-to-text 10 that is used here; the package has no types. */
declare module 'html-to-text' {
  export type Node = {
    readonly children?: readonly Node[]
    readonly attribs?: Readonly<Record<string, string>>
  }
  export type Builder = {
    addInline(text: string): void
    openBlock(options: { readonly leadingLineBreaks: number }): void
    closeBlock(options: { readonly trailingLineBreaks: number }): void
  }
  export type Formatter = (
    element: Node,
    walk: (children: readonly Node[] | undefined, builder: Builder) => void,
    builder: Builder,
    options: Readonly<Record<string, unknown>>,
  ) => void
  export type Options = {
    readonly wordwrap?: number | false
    readonly limits?: {
      readonly maxInputLength?: number
      readonly maxDepth?: number
      readonly maxChildNodes?: number
      readonly ellipsis?: string
    }
    readonly formatters?: Readonly<Record<string, Formatter>>
    readonly selectors?: readonly {
      readonly selector: string
      readonly format?: string
      readonly options?: Readonly<Record<string, unknown>>
    }[]
  }
  /** Builds the converter once; it may be called any number of times. */
  export function compile(options: Options): (html: string) => string
}
