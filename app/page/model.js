/** What /meta tells about the model, for a person. */

const KINDS = {
  clip: "CLIP",
  siglip: "SigLIP",
  siglip2: "SigLIP 2",
  metaclip_2: "MetaCLIP 2",
  modernvbert: "ModernVBERT",
  colmodernvbert: "ModernVBERT",
};

/**
 * Names and values to show, at least one.
 * @param {object} meta a pair {clip_model, text_model} of configurations, or one configuration
 * @returns {[string, string][]}
 */
export function describe(meta) {
  const pictures = meta.clip_model ?? meta;
  const texts = meta.text_model ?? null;
  const facts = [["Model", nameOf(pictures)]];
  if (texts && nameOf(texts) !== nameOf(pictures)) facts.push(["Texts", nameOf(texts)]);
  const vision = pictures.vision_config ?? pictures.vision_cfg ?? pictures.model_config?.vision_cfg ?? {};
  if (vision.image_size) facts.push(["Pictures", `${vision.image_size} × ${vision.image_size} pixels`]);
  return facts;
}

function nameOf(config) {
  const given = config.model_name ?? config._name_or_path ?? config.name_or_path;
  // A path of the machine on which it was saved says nothing.
  if (given && !given.startsWith("/")) return config.pretrained ? `${given}, ${config.pretrained}` : given;
  return KINDS[config.model_type] ?? config.architectures?.[0] ?? config.model_type ?? "unnamed";
}
