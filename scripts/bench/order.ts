/** The mail that every contender sends: an order confirmation of an ordinary shop. */

export const TEMPLATE_NAME = 'order-confirmation'

export const SUBJECT = 'Your order {{ order.number }} at {{ shop.name }}'

/** Twenty lines: greeting, a table of items, conditions, filters. */
export const HTML = `<!doctype html>
<html><body style="font-family: sans-serif; color: #222">
<h1>Thank you, {{ customer.name | capitalize }}!</h1>
<p>We received your order <b>{{ order.number }}</b> on {{ order.placed_at | date: "%e %B %Y" }}.</p>
<table width="100%" cellpadding="4">
<tr><th align="left">Item</th><th>Quantity</th><th align="right">Price</th></tr>
{% for item in order.items -%}
<tr>
<td>{{ item.name }}</td>
<td align="center">{{ item.quantity }}</td>
<td align="right">{{ item.price | times: item.quantity | round: 2 }} {{ order.currency }}</td>
</tr>
{%- endfor %}
<tr><td colspan="2"><b>Total</b></td><td align="right"><b>{{ order.total }} {{ order.currency }}</b></td></tr>
</table>
{% if order.gift %}<p>We wrap it as a gift.</p>{% else %}<p>The invoice is in the parcel.</p>{% endif %}
<p>It goes to:<br>{{ customer.name }}<br>{{ customer.street }}<br>{{ customer.zip }} {{ customer.city | upcase }}</p>
<p><a href="https://{{ shop.domain }}/orders/{{ order.number }}">Follow your order</a></p>
<p>Kind regards<br>{{ shop.name }}</p>
</body></html>`

export const TEXT = `Thank you, {{ customer.name }}!

Your order {{ order.number }}:
{% for item in order.items %}- {{ item.quantity }} x {{ item.name }}
{% endfor %}
Total: {{ order.total }} {{ order.currency }}

https://{{ shop.domain }}/orders/{{ order.number }}`

export const FROM = { name: 'Example Shop', address: 'orders@shop.example' }

const ITEMS = ['Tea "Assam" 250 g', 'Kettle, 1.7 l', 'Cup & saucer', 'Sugar <brown>', 'Strainer'] as const

export type Order = { readonly to: string; readonly variables: Readonly<Record<string, unknown>> }

/** The nth order: always the same, and no two alike. */
export function order(n: number): Order {
  const items = ITEMS.slice(0, 2 + (n % 4)).map((name, index) => ({
    name,
    quantity: 1 + ((n + index) % 3),
    price: 4.5 + index * 7 + (n % 10) / 10,
  }))
  const total = items.reduce((sum, { quantity, price }) => sum + quantity * price, 0)
  return {
    to: `customer-${n}@mail.example`,
    variables: {
      shop: { name: 'Example Shop', domain: 'shop.example' },
      customer: { name: `ann number ${n}`, street: `${n % 300} High Street`, zip: '10115', city: 'Berlin' },
      order: {
        number: `A-${100_000 + n}`,
        placed_at: '2026-03-14T09:26:53Z',
        currency: 'EUR',
        gift: n % 7 === 0,
        total: total.toFixed(2),
        items,
      },
    },
  }
}

/** The nth order as JSON of `POST /emails`, which is also what goes into `mail.outbox`. */
export function orderMessage(n: number): string {
  const { to, variables } = order(n)
  return JSON.stringify({
    from: `${FROM.name} <${FROM.address}>`,
    to: [to],
    template: { id: TEMPLATE_NAME, variables },
    tags: [{ name: 'kind', value: 'order' }],
  })
}
