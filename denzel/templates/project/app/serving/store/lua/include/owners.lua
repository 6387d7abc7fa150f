-- The holder of a claim, `<owner>.<epoch>`: a process begins a new epoch when the answer to a claim was lost. What its
-- earlier epochs claim then, however late Redis reads that from a broken connection, is nobody's.

local function owner_of(holder)
    local owner, epoch = string.match(holder, '^(.*)%.(%d+)$')
    return owner or holder, tonumber(epoch or 0)
end
