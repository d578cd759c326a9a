// What the pack adds to ComfyUI's editor: reports that stay, and the quickstart as the first of its templates.
import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

const OURS = "StoryIdentity"
const QUICKSTART = "toyworld_quickstart"
const reports = new Map() // what each node last said; a node whose result is kept says nothing in later runs

app.registerExtension({
  name: "StoryIdentity.Editor",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith(OURS)) return
    const before = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      before?.apply(this, arguments)
      if (output?.text) reports.set(this, [output.text].flat().join("\n"))
    }
  },
})

api.addEventListener("execution_error", ({ detail }) => {
  for (const node of reports.keys()) if (String(node.id) === String(detail?.node_id)) reports.delete(node)
})

// Newer editors drop the texts of all nodes when a run ends, so they are shown once more.
for (const end of ["execution_success", "execution_error", "execution_interrupted"])
  api.addEventListener(end, () => setTimeout(showReports))

function showReports() {
  for (const [node, text] of reports)
    if (app.canvas.graph?.getNodeById(node.id) === node)
      api.dispatchCustomEvent("progress_text", { nodeId: String(node.id), text })
    else if (node.graph?.getNodeById(node.id) !== node) reports.delete(node)
}

// ComfyUI lists templates in the order of the folder on the disk, which is any.
const templates = api.getWorkflowTemplates
if (templates) api.getWorkflowTemplates = async function () {
  const packs = await templates.apply(this, arguments)
  for (const names of Object.values(packs ?? {}))
    if (Array.isArray(names) && names.includes(QUICKSTART))
      names.sort((one, other) => (other === QUICKSTART) - (one === QUICKSTART) || one.localeCompare(other))
  return packs
}
