'use strict';
const { Schema, model } = require('mongoose');

const message = new Schema({ senderId: Schema.Types.ObjectId, text: String, at: Date });
const schema = new Schema(
  {
    participants: [{ type: Schema.Types.ObjectId, ref: 'User' }],
    messages: [message],
  },
  { timestamps: true },
);
schema.index({ participants: 1 });
schema.index({ updatedAt: 1 });

module.exports = model('Chat', schema);
