/**
 * Stands in for curl where documents use it, so that their commands run on a machine without it: URL, -H, -d and -X.
 * Prints the body; exits with 22 on an HTTP error, as `curl --fail` does.
 */
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    header: { type: 'string', short: 'H', multiple: true, default: [] },
    data: { type: 'string', short: 'd' },
    request: { type: 'string', short: 'X' },
  },
})

const headers = new Headers(
  values.header.map((header): [string, string] => {
    const [name = '', ...rest] = header.split(':')
    return [name, rest.join(':').trim()]
  }),
)
const response = await fetch(positionals[0] ?? '', {
  headers,
  method: values.request ?? (values.data === undefined ? 'GET' : 'POST'),
  ...(values.data === undefined ? {} : { body: values.data }),
})
console.log(await response.text())
if (!response.ok) process.exitCode = 22
