'use strict';
const { Schema, model } = require('mongoose');

const schema = new Schema(
  {
    email: { type: String, required: true, unique: true, lowercase: true, trim: true },
    googleId: { type: String, sparse: true },
    displayName: String,
    role: { type: String, enum: ['buyer', 'seller', 'admin'], default: 'buyer', index: true },
    status: String,
    tags: [String],
  },
  { timestamps: true },
);
schema.index({ createdAt: 1 });

module.exports = model('User', schema);
