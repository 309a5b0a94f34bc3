-- What pandoc does not do by itself for these documents: comments stay out, captions become native,
-- source notes get a style, and tables get widths from what they hold, so that they never run off a page.

local function is_comment(element)
  return element.format == "html" and element.text:match("^%s*<!%-%-")
end

local function caption_of(block)
  if block.t ~= "Para" then return nil end
  local text = pandoc.utils.stringify(block)
  if not (text:match("^Table: ") or text:match("^Tableau: ")) then return nil end
  local inlines = block.content:clone()
  inlines:remove(1)
  inlines:remove(1)
  return inlines
end

local function widths(tbl)
  local longest, word, empty = {}, {}, {}
  local function look(rows, head)
    for _, row in ipairs(rows) do
      for index, cell in ipairs(row.cells) do
        local text, wide = pandoc.utils.stringify(cell.contents), 1
        cell.contents:walk({ Code = function() wide = 1.2 end })
        empty[index] = empty[index] or text == ""
        if not head then longest[index] = math.max(longest[index] or 4, wide * (utf8.len(text) or #text)) end
        for part in text:gmatch("%S+") do
          word[index] = math.max(word[index] or 4, wide * (utf8.len(part) or #part))
        end
      end
    end
  end
  look(tbl.head.rows, true)
  for _, body in ipairs(tbl.bodies) do look(body.body, false) end
  -- Each column first gets room for its longest word; what is left of a line goes by how much there is to say.
  local line, needed, wanted, need, more = 96, 0, 0.001, {}, {}
  for index = 1, #tbl.colspecs do
    need[index] = math.max(math.min(word[index] or 4, 26), empty[index] and 14 or 0) + 4
    more[index] = math.max(0, math.min(longest[index] or 4, 60) - need[index])
    needed, wanted = needed + need[index], wanted + more[index]
  end
  local left = math.max(0, line - needed)
  for index, spec in ipairs(tbl.colspecs) do
    tbl.colspecs[index] = { spec[1], need[index] + left * more[index] / wanted }
  end
  local sum = 0
  for _, spec in ipairs(tbl.colspecs) do sum = sum + spec[2] end
  for index, spec in ipairs(tbl.colspecs) do tbl.colspecs[index] = { spec[1], spec[2] / sum } end
  return tbl
end

function Blocks(blocks)
  local result, pending = pandoc.List(), nil
  for _, block in ipairs(blocks) do
    local found = caption_of(block)
    if block.t == "RawBlock" and is_comment(block) then
      -- guidance and markers are for people who edit
    elseif found then
      pending = found
    else
      if pending and block.t == "Table" then
        block.caption = { long = { pandoc.Plain(pending) } }
      elseif pending then
        result:insert(pandoc.Para(pending))
      end
      pending = nil
      result:insert(block)
    end
  end
  if pending then result:insert(pandoc.Para(pending)) end
  return result
end

function RawInline(element)
  if is_comment(element) then return {} end
end

function Table(tbl)
  if FORMAT:match("typst") or FORMAT:match("docx") then return widths(tbl) end
end

function Div(div)
  if div.classes:includes("source") and FORMAT:match("typst") then
    local blocks = pandoc.List({ pandoc.RawBlock("typst", "#note[") })
    blocks:extend(div.content)
    blocks:insert(pandoc.RawBlock("typst", "]"))
    return blocks
  end
end

-- French puts a space before : ; ! ? and inside guillemets; no line may break there.
function Pandoc(doc)
  if not pandoc.utils.stringify(doc.meta.lang or ""):match("^fr") then return nil end
  return doc:walk({
    Inlines = function(inlines)
      for index = 1, #inlines - 1 do
        local here, after, before = inlines[index], inlines[index + 1], inlines[index - 1]
        if here.t == "Space" or here.t == "SoftBreak" then
          local closes = after.t == "Str" and (after.text:match("^[:;!?%%]") or after.text:match("^»"))
          local opens = before and before.t == "Str" and before.text:match("«$")
          if closes or opens then inlines[index] = pandoc.Str("\u{a0}") end
        end
      end
      return inlines
    end,
  })
end

-- A drawing stands in the page itself, so that its text can be found and read aloud; Word gets it as pixels.
function Image(image)
  if FORMAT:match("html") and image.src:match("%.svg$") then
    image.classes:insert("inline-svg")
    return image
  end
  if FORMAT:match("docx") then
    image.src = image.src:gsub("(/figures/%w+)%.svg$", "%1.png")
    return image
  end
end
