# The service alone: no embedded Postgres, no development tools. Needs DATABASE_URL.
FROM node:24-slim AS modules
WORKDIR /sluice
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:24-slim
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000
WORKDIR /sluice
COPY --from=modules /sluice/node_modules node_modules
COPY package.json ./
COPY migrations migrations
COPY src src
USER node
EXPOSE 3000
# What stops it has to wait for longer than SLUICE_STOP_TIMEOUT_MS before it kills: docker stop --time 30.
STOPSIGNAL SIGTERM
# A container that is only a worker answers where SLUICE_METRICS_PORT says.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.SLUICE_METRICS_PORT || process.env.PORT}/healthz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "--max-semi-space-size=8", "src/main.js"]
