-- The text of a claimed message, in the layout of Kombu's hash `unacked` (kombu/transport/redis.py, 5.7.0): a JSON
-- list of the message, its exchange and its routing key. Ours is never parsed here, as it can be long.

local UNACKED_END = ', "", "' .. QUEUE .. '"]'

local function claim_text(message)
    return '[' .. message .. UNACKED_END
end

local function message_of(text)
    return string.sub(text, 2, -#UNACKED_END - 1)
end

local function task_of(message)
    return string.match(message, '"id":%s*"([^"]+)"'), string.match(message, '"delivery_tag":%s*"([^"]+)"')
end
