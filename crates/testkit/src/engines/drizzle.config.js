// What `drizzle-kit` is told in tests. Everything comes by the environment, where no other user of the machine sees the URL.
module.exports = {
  dialect: 'postgresql',
  out: process.env.DRIZZLE_FOLDER,
  dbCredentials: { url: process.env.DRIZZLE_URL },
  migrations: { schema: process.env.DRIZZLE_SCHEMA, table: process.env.DRIZZLE_TABLE },
};
