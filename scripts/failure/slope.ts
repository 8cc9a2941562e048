import { median } from '../bench/statistics.ts'

export type Point = { readonly x: number; readonly y: number }

/**
 * The slope of a straight line through points, as the median of the slopes between all pairs of them (Theil-Sen): a third of
 * the points may be anywhere without moving it. NaN of fewer than two.
 */
export function robustSlope(points: readonly Point[]): number {
  const slopes = points.flatMap((a, index) =>
    points.slice(index + 1).flatMap((b) => (b.x === a.x ? [] : [(b.y - a.y) / (b.x - a.x)])),
  )
  return median(slopes)
}
