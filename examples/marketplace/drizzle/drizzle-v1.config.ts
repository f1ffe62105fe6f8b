import { defineConfig } from 'drizzle-kit';

export default defineConfig({
  dialect: 'postgresql',
  schema: './schema.ts',
  out: './drizzle-v1',
  dbCredentials: { url: process.env.PG_URL ?? '' },
});
