/**
 * How every boundary begins. `=_` cannot occur in quoted-printable or base64, and what is sent as it is gets checked
 * for it.
 */
export const BOUNDARY_START = '=_sluice_'

/** The boundary of each kind of multipart in a mail; none is the beginning of another. */
export function boundaryOf(kind: 'alternative' | 'mixed' | 'related', id: string): string {
  return kind === 'alternative' ? `${BOUNDARY_START}${id}` : `${BOUNDARY_START}${kind}_${id}`
}
